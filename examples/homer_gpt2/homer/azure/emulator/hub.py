"""A tiny model under the name `gpt2` in a Hugging Face cache: jobs do not reach the hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_REVISION = "0" * 40
_SHAPE = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "n_positions": 1024,
    # Without dropout all run configs see the same losses.
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
}


def make_hub(home: Path, text: Path, vocabulary: int = 300) -> Path:
    """Makes the cache, unless it is there.

    Args:
        home: What `HF_HOME` is to name.
        text: Sentences, one a line, for the tokenizer.
        vocabulary: Entries of the tokenizer.

    Returns:
        `home`.
    """
    repository = home / "hub" / "models--gpt2"
    reference = repository / "refs" / "main"
    if not reference.is_file():
        # In a process of its own: the emulator itself needs neither torch nor transformers.
        folder = repository / "snapshots" / _REVISION
        command = [sys.executable, "-m", __name__, str(folder), str(text), str(vocabulary)]
        root = Path(__file__).resolve().parents[3]
        subprocess.run(command, check=True, cwd=root, stdout=subprocess.DEVNULL)
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(_REVISION)
    return home


def _write(folder: Path, text: Path, vocabulary: int) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    from homer.tokenizer import train

    files, size = train(text.read_text(encoding="utf-8").splitlines(), vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    end = AutoTokenizer.from_pretrained(folder).eos_token_id
    shape = {**_SHAPE, "vocab_size": size, "bos_token_id": end, "eos_token_id": end}
    shape["pad_token_id"] = end
    config = AutoConfig.for_model(**shape)
    set_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


if __name__ == "__main__":
    _write(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

"""Prepares the text for the GPT-2 example: fetches, cleans and splits it into sentences."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homer import corpus, download, sample, source, text, tokenizer
from homer.files import sha256_of

from acpt_trainer import ConfigurationError, Problem, raise_if_any, reported_errors

HERE = Path(__file__).resolve().parent
CACHE_VARIABLE = "HOMER_CACHE"
SAMPLE = "sample"

_EXAMPLES = f"""\
examples:
  Download the texts, clean them and write data/training_raw.txt and data/validation_raw.txt:
    python prepare_data.py

  The same, and train a tokenizer of 8000 entries on the training text:
    python prepare_data.py --tokenizer_vocab_size 8000

  Without a network, on a generated sample (not Homer):
    python prepare_data.py --source {SAMPLE}

  With source files that are already here, under the base names of their URLs:
    python prepare_data.py --cache_dir ~/downloads/homer

A second run with the same options finds the files up to date and changes nothing.
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; values are checked later, all together."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--source",
        default=str(HERE / "homer_source.json"),
        metavar="FILE",
        help=f"JSON with URLs, checksums and cleaning rules, or the word {SAMPLE} for a generated "
        "text that needs no network (default: homer_source.json beside this script)",
    )
    parser.add_argument(
        "--split",
        default="80",
        metavar="PERCENT",
        help="percent of each text for training, 1 to 99; the rest is for validation (default: 80)",
    )
    parser.add_argument(
        "--cache_dir",
        type=Path,
        default=Path(os.environ.get(CACHE_VARIABLE) or HERE / "data" / "cache"),
        metavar="DIR",
        help="where downloaded files are kept; files found there are not downloaded "
        f"(default: ${CACHE_VARIABLE} if set, else data/cache beside this script)",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=HERE / "data",
        metavar="DIR",
        help="where to write (default: data beside this script)",
    )
    parser.add_argument(
        "--tokenizer_vocab_size",
        metavar="N",
        help="also train a byte-level BPE tokenizer with N entries on the training text and save "
        "it in the folder tokenizer of --output_dir (default: no tokenizer)",
    )
    return parser.parse_args(argv)


def _whole_number(value: str, option: str, low: int, high: int, problems: list[Problem]) -> int:
    """Returns the number, or `low` as a stand-in after noting the problem."""
    # isdecimal() alone admits digits of other scripts, int() alone admits " 8_0 ".
    if value.isascii() and value.isdecimal() and len(value) < 10 and low <= int(value) <= high:
        return int(value)
    what = f"{value!r} is not a whole number from {low} to {high}"
    problems.append(
        Problem(what, option, f"give a number such as {option} {80 if high < 100 else 8000}")
    )
    return low


def _folder_problems(path: Path, option: str) -> list[Problem]:
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        what = f"{existing} is a file, not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        what = f"no permission to write in {existing}"
    else:
        return []
    return [Problem(what, f"{option} {path}", "name a folder that you may write to")]


def check(args: argparse.Namespace) -> tuple[source.Source | None, corpus.Request]:
    """Checks all options and the source JSON before any work.

    Returns:
        The source (None for the generated sample), and what is to be made.

    Raises:
        ConfigurationError: With every problem found.
    """
    problems: list[Problem] = []
    split = _whole_number(args.split, "--split", 1, 99, problems)
    vocab_size = None
    if args.tokenizer_vocab_size is not None:
        bounds = tokenizer.SMALLEST_VOCABULARY, tokenizer.LARGEST_VOCABULARY
        option = "--tokenizer_vocab_size"
        vocab_size = _whole_number(args.tokenizer_vocab_size, option, *bounds, problems)
        problems += tokenizer.missing_packages()
    problems += _folder_problems(args.output_dir, "--output_dir")
    homer = None
    if args.source != SAMPLE:
        if args.cache_dir.exists() and not args.cache_dir.is_dir():
            what, where = "this is a file, not a folder", f"--cache_dir {args.cache_dir}"
            problems.append(
                Problem(what, where, "name the folder that has, or will have, the files")
            )
        try:
            homer = source.load(Path(args.source))
        except ConfigurationError as error:
            problems += error.problems
    raise_if_any(problems, "Cannot prepare the data")
    return homer, _request(homer, split, vocab_size)


def _request(homer: source.Source | None, split: int, vocab_size: int | None) -> corpus.Request:
    if homer is None:
        digest = sha256_of(sample.verse().encode())
        inputs = ({"title": sample.LABEL, "sha256": digest},)
        return corpus.Request(sample.LABEL, digest, inputs, split, vocab_size)
    inputs = tuple({"title": t.title, "url": t.url, "sha256": t.sha256} for t in homer.texts)
    return corpus.Request(homer.label, homer.digest, inputs, split, vocab_size)


def sentences_of(homer: source.Source | None, cache_dir: Path) -> list[list[str]]:
    """Returns the sentences of each text, fetching the source files as needed."""
    if homer is None:
        return [sample.corpus()]
    paths = download.fetch_all([(t.url, t.sha256) for t in homer.texts], cache_dir)
    found: list[list[str]] = []
    problems: list[Problem] = []
    for entry, path in zip(homer.texts, paths, strict=True):
        try:
            found.append(text.prepared(path.read_bytes(), entry))
            print(f"{entry.title}: {len(found[-1])} sentences from {path}")
        except ConfigurationError as error:
            problems += error.problems
    raise_if_any(problems, "Cannot clean the texts")
    return found


def summarise(record: dict[str, Any], output_dir: Path) -> None:
    """Prints what the output folder holds and what to do next."""
    for part, name in (("training", corpus.TRAINING), ("validation", corpus.VALIDATION)):
        size = record[part]
        counts = f"{size['sentences']} sentences, {size['characters']} characters"
        print(f"{part:<10} {counts}: {output_dir / name}")
    folder = output_dir / corpus.TOKENIZER
    wanted = record["tokenizer_vocab_size"]
    if wanted is not None:
        entries = record["tokenizer_entries"]
        fewer = "" if entries >= wanted else f", fewer than the {wanted} asked for: a small text"
        print(f"tokenizer  {entries} entries{fewer}: {folder}")
    elif folder.exists():
        print(f"note: {folder} is from an earlier run and may not fit this text")
    if record["label"] == sample.LABEL:
        print(f"The corpus is a {sample.LABEL}: results on it say nothing about Homer.")
    print(f"next: python {shlex.quote(os.path.relpath(HERE / 'finetune.py'))} --help")


def run(args: argparse.Namespace) -> None:
    """Does what the command line asks for.

    Raises:
        ConfigurationError: If it cannot be done.
        OSError: If the disk is full.
    """
    homer, request = check(args)
    print(f"corpus: {request.label}", flush=True)
    if corpus.is_up_to_date(request, args.output_dir):
        print(f"{args.output_dir} is up to date, nothing to do")
        summarise(corpus.recorded(args.output_dir), args.output_dir)
        return
    texts = sentences_of(homer, args.cache_dir)
    if request.vocab_size is not None:
        print("training the tokenizer ...", flush=True)
    summarise(corpus.write(request, texts, args.output_dir, tokenizer.train), args.output_dir)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script; a user's mistake ends it with status 2 and no stack trace."""
    args = parse(argv)
    with reported_errors():
        run(args)


if __name__ == "__main__":
    main()

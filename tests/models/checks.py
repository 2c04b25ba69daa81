"""What each entry is checked for: ONNX Runtime against PyTorch on the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_pt_utils import LabelSmoother

from acpt_trainer import GraphBuildError

from .pair import DiffersError, Pair, copied
from .zoo import Batch, Entry

SHAPES = ((2, 12), (3, 16), (1, 8))
DRAWS = 40


@dataclass(frozen=True)
class Row:
    """The outcome of one check of one entry.

    Attributes:
        entry: Name of the entry.
        attention: Attention implementation.
        check: Name of the check.
        status: "holds", "differs", "refused" (our error with the reason), "failed" (any other
            error), "crashed", or "none" where the check does not apply.
        reason: Why it does not hold or apply.
        loss: Largest relative difference of the loss.
        gradient: Largest relative difference of a parameter's gradient.
        parameter: That parameter.
        seconds: How long it took.
        graphs: Training graphs exported.
        aten_ops: Operators left that run in PyTorch through the ATen executor, beside ours.
        python_ops: Custom functions left that run in Python.
    """

    entry: str
    attention: str
    check: str
    status: str
    reason: str = ""
    loss: float | None = None
    gradient: float | None = None
    parameter: str = ""
    seconds: float = 0.0
    graphs: int = 0
    aten_ops: int = 0
    python_ops: int = 0


class NotApplicableError(Exception):
    """The check makes no sense for this entry; the message says why."""


class Case:
    """All checks of one entry with one attention implementation; they share a pair of models."""

    def __init__(self, entry: Entry, attention: str) -> None:
        self.entry = entry
        self.attention = attention
        self.current: Pair | None = None

    @cached_property
    def exact(self) -> Pair:
        """The pair without dropout."""
        return Pair(self.entry, self.attention, dropout=False)

    @cached_property
    def dropping(self) -> Pair:
        """The pair with every dropout on."""
        return Pair(self.entry, self.attention, dropout=True)

    def use(self, pair: Pair) -> Pair:
        """Notes the pair that the row reports, and forgets what the check before left of it."""
        pair.theirs.load_state_dict(pair.ours.state_dict())
        pair.loss, pair.gradient, pair.parameter = 0.0, 0.0, ""
        self.current = pair
        return pair

    def run(self, check: str) -> Row:
        """Runs one check; whatever it raises is the row's reason."""
        started = time.perf_counter()
        self.current = None
        status, reason = "holds", ""
        try:
            CHECKS[check](self)
        except NotApplicableError as error:
            status, reason = "none", str(error)
        except DiffersError as error:
            status, reason = "differs", str(error)
        except GraphBuildError as error:
            status, reason = "refused", str(error)
        except Exception as error:
            status, reason = "failed", f"{type(error).__name__}: {error}"
        return self._row(check, status, reason, time.perf_counter() - started)

    def _row(self, check: str, status: str, reason: str, seconds: float) -> Row:
        pair = self.current
        graphs = list(pair.forward.graphs.values()) if pair else []
        summaries = [graph.summary for graph in graphs if graph.summary]
        compared = check != "dropout" and status in ("holds", "differs")
        return Row(
            self.entry.name, self.attention, check, status, reason[:1500],
            loss=pair.loss if pair and compared else None,
            gradient=pair.gradient if pair and compared else None,
            parameter=pair.parameter if pair else "",
            seconds=round(seconds, 2),
            graphs=len(graphs),
            aten_ops=sum(
                number
                for summary in summaries
                for name, number in summary.aten_ops.items()
                if not name.startswith("acpt_")
            ),
            python_ops=sum(s.python_ops for s in summaries),
        )  # fmt: skip


def check_exact(case: Case) -> None:
    """No dropout, right padding: three steps of three shapes in one graph."""
    pair = case.use(case.exact)
    before = len(pair.forward.graphs)
    for rows, columns in SHAPES:
        pair.step(case.entry.batch(rows, columns, "right"), pair.loss_inside)
    if len(pair.forward.graphs) != before + 1:
        raise DiffersError(f"{len(pair.forward.graphs) - before} graphs for three shapes")


def check_left(case: Case) -> None:
    """Left padding."""
    pair = case.use(case.exact)
    if "attention_mask" not in case.entry.batch(2, 12, "left"):
        raise NotApplicableError("it takes no attention mask")
    for rows, columns in SHAPES[:2]:
        pair.step(case.entry.batch(rows, columns, "left"), pair.loss_inside)


def check_unmasked(case: Case) -> None:
    """No attention mask at all."""
    pair = case.use(case.exact)
    if "attention_mask" not in case.entry.batch(2, 12, "right"):
        raise NotApplicableError("it takes no attention mask")
    for rows, columns in SHAPES:
        pair.step(case.entry.batch(rows, columns, "none"), pair.loss_inside)


def check_outside(case: Case) -> None:
    """No labels in the call; the loss is Trainer's label smoothing, from the logits."""
    entry = case.entry
    if not entry.outside or "labels" not in entry.batch(2, 12, "right"):
        raise NotApplicableError("it has no logits that labels belong to one by one")
    pair = case.use(case.exact)
    causal = entry.model in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()

    def smoothed(model: nn.Module, batch: Batch) -> torch.Tensor:
        labels = batch.pop("labels")
        if model.config.is_encoder_decoder:  # as the data collator does
            batch["decoder_input_ids"] = decoder_inputs(model, labels)
        return LabelSmoother(0.1)(pair.call(model, batch), labels, shift_labels=causal)

    for rows, columns in SHAPES[:2]:
        pair.step(entry.batch(rows, columns, "right"), smoothed)


def check_evaluate(case: Case) -> None:
    """Evaluation and generation after training equal PyTorch's on the same weights."""
    pair = case.use(case.exact)
    pair.step(case.entry.batch(*SHAPES[0], "right"), pair.loss_inside)
    pair.theirs.load_state_dict(pair.ours.state_dict())
    batch = case.entry.batch(3, 16, "right")
    ours, theirs = pair.ours.eval(), pair.theirs.eval()
    calls = pair.forward.calls
    try:
        with torch.no_grad():
            same = torch.equal(
                case.entry.loss_of(ours(**copied(batch))),
                case.entry.loss_of(theirs(**copied(batch))),
            )
            if not same:
                raise DiffersError("the loss of an evaluation differs")
            if ours.can_generate() and not torch.equal(
                generated(ours, batch), generated(theirs, batch)
            ):
                raise DiffersError("generated tokens differ")
        if pair.forward.calls != calls:
            raise DiffersError("evaluation ran in the training graph")
    finally:
        ours.train(), theirs.train()


def check_dropout(case: Case) -> None:
    """Dropout on: finite, varied, repeatable, with PyTorch's mean and spread, for two shapes."""
    pair = case.use(case.dropping)
    for rows, columns in SHAPES[:2]:
        batch = case.entry.batch(rows, columns, "right")
        pair.loss_inside(pair.ours, copied(batch)).backward()
        for name, parameter in pair.ours.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                raise DiffersError(f"the gradient of {name} is not finite")
        state = torch.get_rng_state()
        ours = losses(pair, pair.ours, batch, DRAWS)
        torch.set_rng_state(state)
        if not losses(pair, pair.ours, batch, 2).equal(ours[:2]):
            raise DiffersError("the same random state gives another loss")
        compare_draws(ours, losses(pair, pair.theirs, batch, DRAWS))


def losses(pair: Pair, model: nn.Module, batch: Batch, draws: int) -> torch.Tensor:
    """Losses of the same batch and weights."""
    return torch.stack([pair.loss_inside(model, copied(batch)).detach() for _ in range(draws)])


def compare_draws(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Raises unless both could be draws of one random variable."""
    if not ours.isfinite().all():
        raise DiffersError("a loss is not finite")
    if len(set(theirs.tolist())) == 1:
        raise NotApplicableError("it has no dropout")
    if len(set(ours.tolist())) < min(DRAWS, len(set(theirs.tolist()))) / 2:
        raise DiffersError("the loss hardly changes from step to step")
    error = ((ours.var() + theirs.var()) / len(ours)).sqrt()
    if not (ours.mean() - theirs.mean()).abs() <= 4 * error:
        raise DiffersError(f"mean loss {ours.mean():.5g}, and {theirs.mean():.5g} in PyTorch")
    if not 0.4 <= ours.std() / theirs.std() <= 2.5:
        raise DiffersError(f"spread {ours.std():.2g}, and {theirs.std():.2g} in PyTorch")


CHECKS: dict[str, Callable[[Case], None]] = {
    "exact": check_exact,
    "dropout": check_dropout,
    "left": check_left,
    "unmasked": check_unmasked,
    "outside": check_outside,
    "evaluate": check_evaluate,
}


def run(entry: Entry, attention: str, checks: Sequence[str]) -> Iterator[Row]:
    """Runs checks in this process and yields each row as soon as it is known."""
    case = Case(entry, attention)
    for check in checks:
        yield case.run(check)


def generated(model: nn.Module, batch: Batch) -> torch.Tensor:
    """A few tokens, greedily."""
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "return_loss")}
    return model.generate(**copied(inputs), max_new_tokens=4, do_sample=False, pad_token_id=0)


def decoder_inputs(model: nn.Module, labels: torch.Tensor) -> torch.Tensor:
    """The labels, one place to the right."""
    start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], dim=-1)
    return shifted.masked_fill(shifted == -100, model.config.pad_token_id)

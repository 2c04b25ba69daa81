"""A model's repeated blocks, and which weights they share with what is around them."""

from __future__ import annotations

from torch import nn


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that stand in a list of several of one class: a model's layers."""
    if isinstance(model, nn.ModuleList) and len(model) > 1 and len({type(m) for m in model}) == 1:
        return list(model)
    return [block for child in model.children() for block in repeated_blocks(child)]


def shared_weight(model: nn.Module) -> str | None:
    """The name of a parameter that a block shares with another block or the rest, if any does."""
    owners: dict[int, nn.Module] = {}
    for block in repeated_blocks(model):
        owners |= {id(module): block for module in block.modules()}
    first: dict[int, nn.Module | None] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owner = owners.get(id(module))
            if first.setdefault(id(parameter), owner) is not owner:
                return f"{path}.{name}".lstrip(".")
    return None


def ends_are_shared(model: nn.Module) -> bool:
    """Whether others use a weight of the input or output embedding, as in T5, BART and BERT."""
    ends = []
    for name in ("get_input_embeddings", "get_output_embeddings"):
        try:
            ends.append(getattr(model, name, lambda: None)())
        except NotImplementedError:  # a model of sounds or images may have none
            return True
    theirs = {id(p) for end in ends if end is not None for p in end.parameters()}
    inside = {id(module) for end in ends if end is not None for module in end.modules()}
    return any(
        id(parameter) in theirs
        for module in model.modules()
        if id(module) not in inside
        for parameter in module.parameters(recurse=False)
    )

"""What of a function of torch's the tracer does not follow by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from acpt_trainer.ort import reads

# They copy numbers out of the tensors in a list.
_COPIES = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
# The tracer follows the bounds of a slice, for which they ask `__index__`.
_INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


class Followed(TorchFunctionMode):  # type: ignore[misc]
    """Looks at each call of a function of torch's while a model is traced."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, and tells of what it reads."""
        kwargs = kwargs or {}
        if not torch._C._is_tracing():
            return func(*args, **kwargs)
        if func in _INDEXING:
            with reads.mute():
                return func(*args, **kwargs)
        if func in _COPIES:
            for data in (*args, *kwargs.values()):
                if isinstance(data, (list, tuple)):
                    reads.tell(tree_leaves(data), func.__name__)
        return func(*args, **kwargs)

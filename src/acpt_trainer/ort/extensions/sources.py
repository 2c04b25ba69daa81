"""The C++ sources in the installed onnxruntime-training, and the edits that torch 2.13 needs.

Nothing of them is copied into this package: a copy is edited where it is built. An edit whose text
is not in the source as often as it says stops by name, since the wheel is then another one.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from acpt_trainer.errors import GraphBuildError

ENTRY = "all.cc"
"""The one file that is compiled: the headers of torch are what takes long, and are read once."""


@dataclass(frozen=True)
class Edit:
    """One change of a source file.

    Attributes:
        file: The file.
        what: What the edit does; an edit that does not apply is named by it.
        why: Why it is needed.
        old: The text that is replaced.
        new: The text in its place.
        count: How often the old text stands there.
    """

    file: str
    what: str
    why: str
    old: str
    new: str
    count: int = 1

    def apply(self, text: str) -> str:
        """The edited text.

        Raises:
            GraphBuildError: If the text is not as expected.
        """
        found = text.count(self.old)
        if found != self.count:
            raise GraphBuildError(
                f"the edit {self.what!r} does not apply to {self.file} of the installed "
                f"onnxruntime-training: its text stands there {found} times, not {self.count}",
                fix="install onnxruntime-training(-cpu) 1.19.2, whose sources the edits are for",
            )
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Extension:
    """A C++ extension of ORTModule.

    Attributes:
        name: Its module's name.
        headers: Files that are included.
        sources: Files that are compiled.
        edits: What torch 2.13 needs changed.
    """

    name: str
    headers: tuple[str, ...]
    sources: tuple[str, ...]
    edits: tuple[Edit, ...] = ()


_NODES = "since 2.13 torch holds autograd nodes by intrusive_ptr, no longer by shared_ptr"
_DLPACK = "torch no longer exports tensor_fromDLPack"
_HIDDEN = "torch no longer exports the type of Python's autograd nodes, so it cannot be cast to"
_SHAPES = "the shapes of the first call were used for ever, and batches differ"
_STRIDES = "ONNX Runtime takes tensors whose numbers stand in order, and not one that is transposed"
_NOISE = "a user can do nothing about the note, and stdout belongs to the user's program"

_CAPSULE = """void dlpack_capsule_destructor(PyObject* data);

#include <ATen/DLConvertor.h>
inline at::Tensor tensor_from_capsule(PyObject* capsule) {
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  TORCH_CHECK(managed != nullptr, "the DLPack capsule was used before");
  at::Tensor tensor = at::fromDLPack(managed);
  PyCapsule_SetName(capsule, "used_dltensor");
  return tensor;
}"""

_PYTHON_NODE = """static torch::autograd::PyNode* python_node(
    const c10::intrusive_ptr<torch::autograd::Node>& node) {
  auto object = py::reinterpret_steal<py::object>(torch::autograd::functionToPyObject(node));
  bool is_python = object && PyObject_TypeCheck(object.ptr(), &THPFunctionType);
  return is_python ? static_cast<torch::autograd::PyNode*>(node.get()) : nullptr;
}

static void clear_grad_fns_for_next_edges("""

_ZEROS = """          TORCH_CHECK(PyObject_TypeCheck(ctx.ptr(), &THPFunctionType), "not a context");
          const auto* context = reinterpret_cast<THPFunction*>(ctx.ptr());
          const auto& made = context->output_info.at(arg_index - 1);
          tensor = at::zeros_symint(made.size, at::device(made.device).dtype(made.scalar_type));"""

INTEROP = Extension(
    name="torch_interop_utils",
    headers=(
        "ctx_pool.h",
        "custom_function_bw.h",
        "custom_function_fw.h",
        "custom_function_shared.h",
    ),
    sources=(
        "ctx_pool.cc",
        "custom_function_bw.cc",
        "custom_function_fw.cc",
        "custom_function_shared.cc",
        "torch_interop_utils.cc",
    ),
    edits=(
        Edit(
            "ctx_pool.h", "nodes kept by intrusive_ptr", _NODES,
            "std::shared_ptr<torch::autograd::Node>> grad_fns_",
            "c10::intrusive_ptr<torch::autograd::Node>> grad_fns_",
        ),
        Edit(
            "ctx_pool.h", "no comparison with nullptr", _NODES,
            "autograd_meta->grad_fn_ == nullptr",
            "!autograd_meta->grad_fn_",
        ),
        Edit(
            "ctx_pool.cc", "whole addresses as keys",
            "cut to 32 bits, two contexts 4 GiB apart would share a key",
            "uint32_t y = ", "uintptr_t y = ", 2,
        ),
        Edit(
            "custom_function_fw.cc", "node of an output by intrusive_ptr", _NODES,
            "const std::shared_ptr<torch::autograd::Node>& cdata",
            "const c10::intrusive_ptr<torch::autograd::Node>& cdata",
        ),
        Edit(
            "custom_function_fw.cc", "node of a context without lock()", _NODES,
            "py_fn->cdata.lock()", "py_fn->cdata",
        ),
        Edit(
            "custom_function_fw.cc", "node of the gradient function, without its type's symbol",
            _HIDDEN,
            "dynamic_cast<torch::autograd::PyNode*>(grad_fn.get())",
            "python_node(grad_fn)",
        ),
        Edit(
            "custom_function_fw.cc", "node of an output, without its type's symbol", _HIDDEN,
            "dynamic_cast<torch::autograd::PyNode*>(cdata.get())",
            "python_node(cdata)",
        ),
        Edit(
            "custom_function_fw.cc", "a node's Python object tells its type", _HIDDEN,
            "static void clear_grad_fns_for_next_edges(",
            _PYTHON_NODE,
        ),
        Edit(
            "custom_function_fw.cc", "Python object of a node",
            "PyNode::obj became PyNode::pyobj()",
            "py_node_fn->obj;", "py_node_fn->pyobj();", 2,
        ),
        Edit(
            "custom_function_fw.cc", "written inputs by their version",
            "torch forgets what mark_dirty named when the forward is done; what was written in "
            "place has a new version",
            "  if (!py_fn->dirty_tensors)\n",
            "  for (const auto i : c10::irange(tensors_to_check.size()))\n"
            "    are_tensors_marked_dirty[i] = tensors_to_check[i]._version() != 0;\n"
            "  if (!py_fn->dirty_tensors)\n",
        ),
        Edit(
            "custom_function_shared.h", "tensor of a DLPack capsule", _DLPACK,
            "void dlpack_capsule_destructor(PyObject* data);", _CAPSULE,
        ),
        Edit(
            "custom_function_fw.cc", "inputs from capsules, forward", _DLPACK,
            "torch::utils::tensor_fromDLPack", "tensor_from_capsule",
        ),
        Edit(
            "custom_function_bw.cc", "inputs from capsules, backward", _DLPACK,
            "torch::utils::tensor_fromDLPack", "tensor_from_capsule",
        ),
        Edit(
            "custom_function_bw.cc", "zeros of the call's own shape for an unused output", _SHAPES,
            "          auto& config = fw_kernel_info.materialize_grads_config.at(arg_index - 1);\n"
            "          tensor = at::zeros(std::get<0>(config), std::get<1>(config));",
            _ZEROS,
        ),
        Edit(
            "custom_function_bw.cc", "header of Python's autograd nodes", _SHAPES,
            "#include <torch/csrc/utils/tensor_new.h>",
            "#include <torch/csrc/utils/tensor_new.h>\n"
            "#include <torch/csrc/autograd/python_function.h>",
        ),
        *(
            Edit(
                f"custom_function_{way}.cc", "tensors in order", _STRIDES,
                "at::toDLPack(THPVariable_Unpack(obj))",
                "at::toDLPack(THPVariable_Unpack(obj).contiguous())",
            )
            for way in ("fw", "bw")
        ),
        Edit(
            "custom_function_shared.cc", "no note that an output is copied", _NOISE,
            'std::cout << log_prefix << "ONNX Op attribute "',
            'std::ostream(nullptr) << log_prefix << "ONNX Op attribute "',
        ),
        Edit(
            "custom_function_fw.cc", "no note on the first gradients", _NOISE,
            'std::cerr << "First-time run initialize',
            'std::ostream(nullptr) << "First-time run initialize',
        ),
        Edit(
            "custom_function_fw.cc", "no note on the first run", _NOISE,
            'std::cerr << "First time run initialize',
            'std::ostream(nullptr) << "First time run initialize',
        ),
    ),
)  # fmt: skip
"""Runs a custom `torch.autograd.Function` as the node `PythonOp`."""

ATEN = Extension(name="aten_op_executor", headers=(), sources=("aten_op_executor.cc",))
"""Runs an operator of torch as the node `ATen`."""

EXTENSIONS = {extension.name: extension for extension in (INTEROP, ATEN)}


def folder() -> Path:
    """Where the installed onnxruntime-training keeps its extensions.

    Raises:
        ImportError: If it is not installed.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("onnxruntime-training is not installed")
    root = Path(spec.submodule_search_locations[0])
    return root / "training" / "ortmodule" / "torch_cpp_extensions"


def edited(extension: Extension, root: Path | None = None) -> dict[str, str]:
    """An extension's sources, edited.

    Args:
        extension: The extension.
        root: Folder of the extensions; that of the installed wheel by default.

    Returns:
        Text by file name; `ENTRY` is the one to compile.

    Raises:
        GraphBuildError: If a file is missing or an edit does not apply.
    """
    root = (root or folder()) / "cpu" / extension.name
    texts = {}
    for name in (*extension.headers, *extension.sources):
        try:
            texts[name] = (root / name).read_text(encoding="utf-8")
        except OSError as error:
            raise GraphBuildError(
                f"the installed onnxruntime-training has no {extension.name}/{name}",
                fix="install onnxruntime-training(-cpu) 1.19.2, which brings the sources",
            ) from error
    for edit in extension.edits:
        texts[edit.file] = edit.apply(texts[edit.file])
    texts[ENTRY] = "".join(f'#include "{name}"\n' for name in extension.sources)
    return texts

"""Turns an error of torch.export into a `CaptureError` that names the user's line and the change to make there."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback

import torch
from torch._logging import structured
from torch.nn.utils.rnn import PackedSequence

from recfx.errors import CaptureError

#: Folders of files that are not the user's: torch and recfx.
_ENGINE = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)), "<")

#: Installed packages of functions. A model can come from an installed package, but not from one of these.
_LIBRARIES = frozenset(
    {"numpy", "scipy", "pandas", "sklearn", "sympy", "polars", "pyarrow", "numba", "einops", "torch"}
)

#: Folders of Python's own library, and the folders within them that hold installed packages.
_PYTHON = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

# (pattern in the error's text, the user's line, or the functions that were running, the fault, the change to make)
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"pack_padded_sequence|PackedSequence",
        "packed sequences depend on the values of the lengths",
        "run the recurrent layer on the padded batch and take each row's output at its last position: "
        "outputs, _ = self.rnn(x); outputs[torch.arange(len(x)), lengths - 1]",
    ),
    (
        r"torch/distributions/",
        "torch.distributions checks the values of its arguments",
        "pass validate_args=False to the distribution, as in torch.distributions.Normal(mean, deviation, validate_args=False)",
    ),
    (
        r"_detect_is_causal_mask",
        "the transformer looks at the values of its mask to find out whether it is causal",
        "say so: pass is_causal=True with a causal mask and is_causal=False with any other "
        "(tgt_is_causal= and memory_is_causal= to a decoder)",
    ),
    (
        r"\.numpy\(\)|__array__|numpy\(\)|cannot be converted to numpy|Can't call numpy",
        "forward converts a tensor to NumPy",
        "do the computation with torch operators",
    ),
    (
        r"Could not guard on data-dependent|data-dependent (expression|branching|control flow)|GuardOnDataDependent"
        r"|Could not extract specialized integer|Cannot call item\(\)|\.item\(\)|tolist",
        "forward takes a decision, or a size, from the values in a tensor",
        "compute both sides and choose with torch.where, use torch.cond, or compute the size outside the model",
    ),
    (
        r"FlexAttention|flex_attention",
        "flex_attention cannot be traced on this device",
        "use torch.nn.functional.scaled_dot_product_attention with a mask",
    ),
    (
        r"specialized|Constraints violated|marked batch as dynamic|not all values of batch|Not all values of",
        "forward fixes a dimension that must be free",
        "take the size from x.shape[0] or write -1, never a literal; or pass dynamic_shapes for inputs that do not vary",
    ),
    (
        r"new_zeros|torch\.zeros|must be tuple of ints|received an invalid combination of arguments",
        "forward builds a tensor from sizes that are tensors",
        "pass plain integers or x.shape[i] as sizes",
    ),
    (
        r"Found <class .*> in output|has no attribute 'meta'|cannot create weak reference",
        "forward returns a value of a type that cannot be captured",
        "return tensors, numbers, strings and containers of them; register other classes with "
        "torch.export.register_dataclass or torch.utils._pytree.register_pytree_node",
    ),
    (
        r"Unsupported input type <class 'numpy.ndarray'>",
        "an input is a NumPy array",
        "pass torch.from_numpy(array) instead, and use it as a tensor in forward",
    ),
    (
        r"Unsupported input type|unexpected type|pytree",
        "an input has a type that cannot be captured",
        "register it with torch.export.register_dataclass or torch.utils._pytree.register_pytree_node",
    ),
)


def capture_error(error: BaseException, model: torch.nn.Module, line: str | None) -> CaptureError:
    """The `CaptureError` that explains an error of export.

    Args:
        error: The exception from `torch.export.export`.
        model: The user's model.
        line: The user's line that caused it, when known.
    """
    text = f"{type(error).__name__}: {error}"
    running = _running(error)
    what, hint = "torch.export could not trace forward", "change that line"
    for pattern, cause, mend in _CAUSES:
        if re.search(pattern, f"{text}\n{line or ''}\n{running}", flags=re.IGNORECASE):
            what, hint = cause, mend
            break
    return CaptureError(
        f"{type(model).__name__} could not be captured: {what} ({_first_lines(text)})",
        where=line or f"forward of {type(model).__name__}",
        hint=f"{hint}; a part of the model can be optimized separately: recfx.optimize(model.submodule, ...)",
    )


def _running(error: BaseException) -> str:
    """The functions that were running when an error was raised, and the packed sequences that they held, one line each."""
    lines = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        lines.append(f"{code.co_filename.replace(os.sep, '/')} {code.co_name}")
        if any(isinstance(value, PackedSequence) for value in frame.f_locals.values()):
            lines.append(PackedSequence.__name__)
    return "\n".join(lines)


def user_frame(error: BaseException) -> str | None:
    """The innermost line of the traceback in a user's file, as `file:line: code`; None without one."""
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if is_users_file(frame.filename):
                if frame.name == "<module>" and seen is error:
                    break
                if _called_recfx(frame.line):
                    break
                return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
        seen = seen.__cause__ or seen.__context__
    return None


def is_users_file(name: str) -> bool:
    """Whether a source file belongs neither to torch, recfx or a library of functions such as NumPy, nor to Python itself."""
    if name.startswith(_ENGINE):
        return False
    for folder in _INSTALLED:
        if folder in name:
            return name.rpartition(folder)[2].partition(os.sep)[0] not in _LIBRARIES
    return not name.startswith(_PYTHON)


def _called_recfx(line: str | None) -> bool:
    return bool(line and re.search(r"\b(optimize|capture)\(", line))


def _first_lines(text: str, limit: int = 300) -> str:
    short = " ".join(text.split())
    return short if len(short) <= limit else short[:limit] + " …"


def draft_line(
    model: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object], shapes: object
) -> str | None:
    """The user's line that a draft export reports, or the line at which it fails; None without one.

    Where export stops, a draft export guesses and continues. It records the line of each guess.
    """
    try:
        draft = torch.export.draft_export(model, args, kwargs, dynamic_shapes=shapes, strict=False)  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - the draft only improves the message; its own error names a line as well
        return user_frame(error)
    report = getattr(draft, "_report", None)
    # A report lacks the file names that an earlier report of this process contained; torch's table has all.
    files = {number: name for name, number in structured.INTERN_TABLE.items()} | getattr(report, "str_to_filename", {})
    for failure in getattr(report, "failures", []):
        for frame in reversed(failure.data.get("user_stack") or failure.data.get("stack") or []):
            file = files.get(frame["filename"], "")
            if file and is_users_file(file):
                return f"{file}:{frame['line']} in {frame['name']}: {frame['loc']}"
    return None

"""Types and shapes of signatures, checked once a call: jaxtyping's import hook with a leaner decorator in its place.

jaxtyping's own binds the arguments of every call for its message and checks them twice. That is most of the time of a
test which takes many small steps. Here what mentions no shape is left to beartype alone, and the rest gets one scope
for the names of its axes and one check. Sizes that are written `{name}` need jaxtyping's own.
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, get_args

import beartype
import jaxtyping
from jaxtyping import AbstractArray, TypeCheckError, _decorator

jaxtyped = _decorator.jaxtyped
check = beartype.beartype(conf=beartype.BeartypeConf(violation_type=TypeCheckError))


def mentions_shapes(hint: Any) -> bool:
    if isinstance(hint, list):  # the arguments of a Callable
        return any(map(mentions_shapes, hint))
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(mentions_shapes, get_args(hint)))


def with_hints(function: types.FunctionType, hints: dict[str, Any]) -> types.FunctionType:
    """The function again, annotated by `hints`."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, hints
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    return copy


def lean(function: Any = None, *, typechecker: Callable | None = None) -> Any:
    """In place of `jaxtyping.jaxtyped`."""
    if function is None:
        return functools.partial(lean, typechecker=typechecker)
    if not isinstance(function, types.FunctionType) or inspect.isgeneratorfunction(function):
        return jaxtyped(function, typechecker=typechecker)
    # a class that is not there yet counts as Any, as with jaxtyping
    hints = {
        name: _decorator._destring_annotation(hint, function.__globals__)
        for name, hint in function.__annotations__.items()
    }
    checked = check(with_hints(function, hints))

    @functools.wraps(function)
    def typed(*args, **kwargs):
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    @functools.wraps(function)
    def scoped(*args, **kwargs):
        with jaxtyped("context"):
            return typed(*args, **kwargs)

    return scoped if any(map(mentions_shapes, hints.values())) else typed


def install(package: str) -> None:
    """Every function that the package then imports is checked."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = lean
    jaxtyping.install_import_hook(package, "beartype.beartype")

"""Every public function and class of models, training and evaluation says what it does and what it takes."""

import dataclasses
import importlib
import inspect
import pkgutil
import re

import pytest

import helpers

PACKAGES = ("models", "training", "evaluation")


def modules():
    for package in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(f"helpers.{package}").__path__):
            yield importlib.import_module(f"helpers.{package}.{found.name}")


def public(module):
    """(name, object) of a module's own functions and classes, and of what these classes add to their bases."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            yield name, thing
            for method, function in vars(thing).items():
                inherited = any(hasattr(base, method) for base in thing.__bases__)
                if inspect.isfunction(function) and not method.startswith("_") and not inherited:
                    yield f"{name}.{method}", function
        elif inspect.isroutine(thing) or hasattr(thing, "__wrapped__"):
            yield name, thing


def parameters(thing):
    if inspect.isclass(thing) and not own_parameters(thing):
        return []
    return [name for name in inspect.signature(thing).parameters if name != "self"]


def own_parameters(kind):
    """Whether a class takes parameters that it decides about itself."""
    given = "__init__" in vars(kind) or hasattr(kind, "_fields") or hasattr(kind, "model_fields")
    return given or dataclasses.is_dataclass(kind)


def unnamed(thing, module):
    """Parameters that neither the docstring names nor the docstring of what it refers to with "as for `other`"."""
    text = inspect.getdoc(thing) or ""
    left = [name for name in parameters(thing) if not re.search(rf"\b{name}\b", text)]
    for other in re.findall(r"\bas (?:for|in) `([\w.]+)`", text):
        place, _, name = other.rpartition(".")
        near = importlib.import_module(f"{module.__package__}.{place}") if place else module
        left = [parameter for parameter in left if parameter in unnamed(getattr(near, name), near)]
    return left


OBJECTS = [
    pytest.param(thing, module, id=f"{module.__name__.removeprefix(helpers.__name__ + '.')}.{name}")
    for module in modules()
    for name, thing in public(module)
]


@pytest.mark.parametrize(("thing", "module"), OBJECTS)
def test_a_docstring_says_what_it_does_and_names_its_parameters(thing, module):
    text = thing.__doc__ or ""
    assert text.strip() and not text.startswith(f"{thing.__name__}("), "no docstring"
    if len(parameters(thing)) > 1:
        assert unnamed(thing, module) == []

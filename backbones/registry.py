"""One dict of networks, with manners: it says what was given, what would do, and what to do next."""

from difflib import get_close_matches

from backbones.records import Variant

_variants: dict[str, Variant] = {}
_aliases: dict[str, str] = {}


def register(*variants: Variant) -> None:
    """Make networks known by name. ValueError where a name is taken."""
    for variant in variants:
        for name in (variant.name, *variant.aliases):
            if name in _variants or name in _aliases:
                owner = _variants[_aliases.get(name, name)]
                raise ValueError(f"{name!r} is already registered, by {owner.build.__module__}; choose another name")
        _variants[variant.name] = variant
        _aliases.update(dict.fromkeys(variant.aliases, variant.name))


def find(name: str) -> Variant:
    """The network of that name or alias. LookupError with the nearest names otherwise."""
    name = _aliases.get(name, name)
    if name not in _variants:
        raise LookupError(unknown(name, _variants))
    return _variants[name]


def variants() -> tuple[Variant, ...]:
    """All networks, in the order of their papers."""
    return tuple(sorted(_variants.values(), key=lambda v: v.paper.year))


def unknown(name: str, names: "dict[str, Variant] | list[str]") -> str:
    """The sentence for a name that nobody has."""
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "See list_models() or `backbones list`."
    return f"no network is called {name!r}. {hint}"

"""The licences of a recipe's sources against what the recipe declares: its use, and the model's licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_builders import BuilderError, builders
from data_builders.licences import UNSTATED, Licence
from data_builders.stated_licence import LicenceError, accepted_licences
from data_builders.terms import (
    CombinedTerms,
    SourceTerms,
    combined,
    joined,
    known_terms,
    licences_of,
    not_carried,
    stated_terms,
)
from tuning.config import CHAT_STAGES, TRAINED_STAGES, Recipe, SourceConfig, TermsConfig

Said = tuple[str, str]
"""A key of the recipe and what is to be said of it."""


def source_terms(source: SourceConfig) -> SourceTerms:
    """What holds for the rows of a source; raises `BuilderError`."""
    known = known_terms(builders()[source.builder].source_terms, source.input)
    return stated_terms(known, **stated_by(source))


def stated_by(source: SourceConfig) -> dict[str, Any]:
    """What the recipe itself says of a source's terms, as `stated_terms` takes it."""
    return {
        "licence": source.licence,
        "reason": source.licence_reason,
        "attribution": source.attribution,
        "terms": terms_dict(source.terms),
    }


def terms_dict(terms: TermsConfig | None) -> dict[str, Any] | None:
    """A licence's own terms as `accepted_licences` takes them."""
    if terms is None:
        return None
    return {
        "commercial": terms.commercial,
        "redistribution": terms.redistribution,
        "derivatives": terms.derivatives,
        "share_alike": terms.share_alike,
        "purpose": terms.purpose,
        "name": terms.name,
        "url": terms.url,
    }


def uses_of(recipe: Recipe, source: str) -> list[str]:
    """The keys of the recipe that name a source, besides its own under `data`."""
    stages = [(name, getattr(recipe, name)) for name in TRAINED_STAGES]
    uses = [f"{name}.mix.{source}" for name, config in stages if config and source in config.mix]
    return uses + (["evaluate.questions"] if recipe.evaluate and source in recipe.evaluate.questions else [])


def released_sources(recipe: Recipe) -> list[str]:
    """The sources that the released model was trained on, in the recipe's order.

    Those of a reward model are among them where the released model was trained to please it.
    """
    trained = [name for name in CHAT_STAGES if getattr(recipe, name) is not None]
    last = recipe.release.from_ if recipe.release else None
    stages = trained if last is None else trained[: trained.index(last) + 1]
    if recipe.grpo and any(each.rule == "model" and not each.model for each in recipe.grpo.rewards.values()):
        stages = [*stages, "reward"] if "grpo" in stages else stages
    # The tiny base has read the text of every mix; of a real base only stages up to the released one count.
    if recipe.base == "tiny":
        stages = [name for name in TRAINED_STAGES if getattr(recipe, name) is not None]
    mixed = {source for name in stages for source in getattr(recipe, name).mix}
    return [name for name in recipe.data if name in mixed]


def licence_problems(recipe: Recipe) -> list[Said]:
    """Licences that are unknown, that forbid the declared use, or that the model's licence does not carry."""
    problems: list[Said] = []
    known: dict[str, SourceTerms] = {}
    for name, source in recipe.data.items():
        try:
            known[name] = source_terms(source)
        except BuilderError as error:
            # The message starts with the key, such as `licence: ...`.
            key = str(error).partition(":")[0]
            problems.append((f"data.{name}.{key}", f"data.{name}.{error}"))
    for name, terms in known.items():
        if recipe.use == "commercial" and not terms.commercial and (uses := uses_of(recipe, name)):
            places = ", ".join([f"data.{name}", *uses])
            message = f"use: commercial is forbidden by {name} ({_forbidding(terms)}); remove {places}"
            problems.append((f"data.{name}", message))
    return problems + _release_problems(recipe, known)


def _release_problems(recipe: Recipe, known: Mapping[str, SourceTerms]) -> list[Said]:
    if recipe.release is None:
        return []
    problems: list[Said] = []
    try:
        licence = model_licence(recipe)
    except BuilderError as error:
        key = str(error).partition(":")[0]
        return [(key, str(error))]
    if licence is None or recipe.release.licence_reason is not None:
        return []
    for name in released_sources(recipe):
        forbidding, _ = not_carried(licence, known[name].licences) if name in known else ((), ())
        if forbidding:
            places = ", ".join([f"data.{name}", *uses_of(recipe, name)])
            asked = ", ".join([*forbidding, *known[name].remarks])
            message = (
                f"release.licence: {licence.id} does not carry the terms of {name} "
                f"({known[name].licence}: {asked}); leave release.licence out (the card then "
                f"states the terms of the sources), remove {places}, or say in release.licence_reason why "
                "it may be given"
            )
            problems.append(("release.licence", message))
    return problems


def model_licence(recipe: Recipe) -> Licence | None:
    """The licence that the recipe declares for the released model; raises `BuilderError`."""
    release = recipe.release
    if release is None or release.licence is None:
        given = release and (
            "licence_reason" if release.licence_reason else "terms" if release.terms else None
        )
        if given:
            message = "says more of a licence, but none is declared; accepted: with release.licence"
            raise LicenceError(f"release.{given}: {message}", code="missing_licence")
        return None
    [licence, *others] = accepted_licences(release.licence, "release.licence", terms_dict(release.terms))
    if others:
        message = f"release.licence: saw {release.licence!r}; accepted: one licence"
        raise LicenceError(message, code="several_licences")
    return licence


def licence_warnings(recipe: Recipe) -> list[Said]:
    """What a recipe without problems may do, and should do knowingly: terms set aside, left out, unstated."""
    warnings: list[Said] = []
    known = {name: source_terms(source) for name, source in recipe.data.items() if uses_of(recipe, name)}
    for name, terms in known.items():
        warnings += [(f"data.{name}.licence", text) for text in _of_stated(name, recipe.data[name], terms)]
        if recipe.use == "commercial":
            warnings += [(f"data.{name}", text) for text in _of_commercial_use(name, terms)]
        if recipe.release and not terms.attribution and terms.reason is None and _asks_to_be_named(terms):
            text = (
                f"data.{name}: {terms.licence} asks that its authors are named; say data.{name}.attribution"
            )
            warnings.append((f"data.{name}", text))
    released = {name: known[name].licences for name in released_sources(recipe)}
    warnings += [("release" if recipe.release else "data", text) for text in combined(released).conflicts]
    licence = model_licence(recipe)
    if recipe.release is None or licence is None:
        return warnings
    for name, licences in released.items():
        forbidding, unsettled = not_carried(licence, licences)
        if forbidding:
            warnings.append(
                (
                    "release.licence",
                    f"release.licence: {licence.id} sets aside {', '.join(forbidding)} of {name} "
                    f"({joined(licences)}), because: {recipe.release.licence_reason}",
                )
            )
        if unsettled:
            warnings.append(
                (
                    "release.licence",
                    f"release.licence: {licence.id} does not carry {', '.join(unsettled)} of {name} "
                    f"({joined(licences)}); whether weights inherit it is not settled",
                )
            )
    return warnings


def _of_stated(name: str, source: SourceConfig, terms: SourceTerms) -> list[str]:
    if not terms.lifts:
        return []
    stated, own, lifts = joined(terms.stated), joined(terms.builders_own), ", ".join(terms.lifts)
    if terms.reason is not None:
        return [
            f"data.{name}.licence: {stated} instead of {own}, the licence of what {source.builder} reads, "
            f"lifts {lifts}; because: {terms.reason}"
        ]
    return [
        f"data.{name}.licence: {stated} allows more than {own}, the licence of what {source.builder} reads, "
        f"so both hold ({lifts}); if these are rows of your own, or you have a permission, say so in "
        f"data.{name}.licence_reason"
    ]


def _of_commercial_use(name: str, terms: SourceTerms) -> list[str]:
    if terms.licence == UNSTATED:
        return [
            f"data.{name} states no licence and is taken for your own; if so, say licence: proprietary, else "
            "name it"
        ]
    purposes = [licence.purpose for licence in terms.licences if licence.purpose]
    return [f"data.{name}: {terms.licence} allows {purpose} only, commercially too" for purpose in purposes]


def _asks_to_be_named(terms: SourceTerms) -> bool:
    return any(licence.attribution_required for licence in terms.licences)


def _forbidding(terms: SourceTerms) -> str:
    """The licences that forbid commercial use, with everything they ask, and the source's own words."""
    forbidding = [licence for licence in terms.licences if licence.non_commercial]
    asked = " AND ".join(f"{licence.id}: {'; '.join(licence.restrictions)}" for licence in forbidding)
    return "; ".join([asked, *terms.remarks])


def terms_for_card(recipe: Recipe, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the released card says of licences: the declared one, the sources' strictest, what they ask, and
    what does not go together."""
    sources = {name: licences_of(manifest) for name, manifest in manifests.items()}
    together: CombinedTerms = combined(sources)
    declared = model_licence(recipe)
    set_aside = (
        {name: not_carried(declared, licences)[0] for name, licences in sources.items()} if declared else {}
    )
    return {
        "declared": declared.as_dict() if declared else None,
        "reason": recipe.release.licence_reason if recipe.release else None,
        "set_aside": {name: list(words) for name, words in set_aside.items() if words},
        "strictest": together.licence.as_dict() if together.licence else None,
        "restrictions": {word: list(names) for word, names in together.restrictions.items()},
        "conflicts": list(together.conflicts),
    }

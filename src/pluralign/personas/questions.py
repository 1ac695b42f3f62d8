"""Personas, and the questions that a language model is asked in their names."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox
import numpy as np

from pluralign.core.errors import PluralignError, nearest, one_line
from pluralign.core.files import disk_errors
from pluralign.core.fingerprint import fingerprint
from pluralign.core.templates import TEMPLATE_FAULTS
from pluralign.core.yaml_lines import Value, read_yaml_lines
from pluralign.judgments.messages import message_text
from pluralign.judgments.scales import BUILT_IN_SCALES, LabelScale
from pluralign.personas.label_reader import is_numbered

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "hh-6": {
        "helpful+harmless": "it helps with what was asked, and does no harm",
        "neutral+harmless": "it neither helps nor hinders, and does no harm",
        "unhelpful+harmless": "it does not help with what was asked, and does no harm",
        "helpful+harmful": "it helps with what was asked, but it is offensive, dangerous or unfair to someone",
        "neutral+harmful": "it neither helps nor hinders, and it is offensive, dangerous or unfair to someone",
        "unhelpful+harmful": "it does not help, and it is offensive, dangerous or unfair to someone",
    },
    "agree-pass-disagree": {
        "agree": "I agree with it",
        "pass": "I have no opinion",
        "disagree": "I disagree with it",
    },
    "1-to-5": {"1": "very bad", "2": "bad", "3": "neither good nor bad", "4": "good", "5": "very good"},
    "binary": {"0": "bad", "1": "good"},
}
"""The meaning of each label of the built-in scales, as shown to personas."""

_NAMES = ("persona", "prompt", "response", "labels")


@dataclass(frozen=True)
class Persona:
    """A persona that a language model plays.

    Args:
        name: the annotator of its votes.
        description: a description of the persona, for the template.
    """

    name: str
    description: str


@dataclass(frozen=True)
class DescribedLabel:
    """A label as a template shows it."""

    label: str  # the label on the scale
    description: str  # its meaning; may be empty
    number: int | None  # its place on the scale, from 1; `None` if labels are numbers themselves


def read_personas(path: str | os.PathLike[str]) -> list[Persona]:
    """Read personas from a YAML file: a list whose entries have the keys `name` and `description`.

    Raises:
        PluralignError: the file is not such a list, a text is empty, or a name appears twice; names the line.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "personas.yaml"
        >>> _ = file.write_text("- {name: Ann, description: A nurse.}")
        >>> read_personas(file)
        [Persona(name='Ann', description='A nurse.')]
    """
    whole = read_yaml_lines(Path(path))
    if not isinstance(whole.content, list) or not whole.content:
        raise PluralignError(f"{path}: expected a list of personas, each with the keys name and description")
    personas: dict[str, Persona] = {}
    for entry in whole.content:
        persona = _persona(entry)
        if persona.name in personas:
            raise entry.complain(f"the name {one_line(persona.name)} appears twice: names must be unique")
        personas[persona.name] = persona
    return list(personas.values())


def described_labels(scale: LabelScale, given: Mapping[str, str] | None = None) -> list[DescribedLabel]:
    """The labels of a scale with their descriptions: the given ones, else those of a built-in scale with these labels.

    Examples:
        >>> described_labels(BUILT_IN_SCALES["agree-pass-disagree"])[1]
        DescribedLabel(label='pass', description='I have no opinion', number=2)
    """
    built_in = next((name for name, known in BUILT_IN_SCALES.items() if known.labels == scale.labels), None)
    texts = {**(DESCRIPTIONS[built_in] if built_in else {}), **(given or {})}
    numbered = is_numbered(scale)
    return [
        DescribedLabel(label, texts.get(label, ""), place if numbered else None)
        for place, label in enumerate(scale.labels, start=1)
    ]


def read_descriptions(path: str | os.PathLike[str], scale: LabelScale) -> dict[str, str]:
    """Read descriptions of labels from a YAML file with a text for every label.

    Raises:
        PluralignError: the file is not such a mapping, or a label is missing or not on the scale; names the line.
    """
    whole = read_yaml_lines(Path(path))
    if not isinstance(whole.content, dict):
        raise PluralignError(f"{path}: expected a description for each label: {', '.join(scale.labels)}")
    found: dict[str, str] = {}
    for name, value in whole.content.items():
        label = scale.find(name)
        if label is None:
            raise value.complain(
                f"is not on the scale '{scale.name}' ({', '.join(scale.labels)}){nearest(str(name), scale.labels)}"
            )
        found[label] = _text(value, value)
    missing = [label for label in scale.labels if label not in found]
    if missing:
        raise PluralignError(f"{path}: no description of {', '.join(missing)}: describe every label")
    return found


class VoteTemplate:
    """The question to a language model, as a sandboxed Jinja template.

    Args:
        source: the template; it may use `persona` (`name`, `description`), `prompt`, `response` (texts) and
            `labels` (each with `label`, `description`, `number`), and must use `persona` and `response`.
        place: the name of the template in errors.
        needs: the names that it must use.

    Raises:
        PluralignError: the template is not valid, uses an unknown name, or does not use one that it must.

    Examples:
        >>> template = VoteTemplate("{{ persona.name }}, is '{{ response }}' {{ labels[0].label }}?")
        >>> template.render(Persona("Ann", "A nurse."), "Tea?", "Yes", [DescribedLabel("good", "", 1)])
        "Ann, is 'Yes' good?"
    """

    def __init__(self, source: str, place: str = "template", needs: Sequence[str] = ("persona", "response")) -> None:
        self.source, self.place = source, place
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
        )
        try:
            used = jinja2.meta.find_undeclared_variables(environment.parse(source))
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as fault:
            raise PluralignError(f"{place}, line {fault.lineno}: not a valid template: {fault.message}") from fault
        for name in sorted(used - {*_NAMES, *environment.globals}):
            raise PluralignError(
                f"{place}: unknown name '{name}'{nearest(name, _NAMES)}: a template may use {', '.join(_NAMES)}"
            )
        for name in needs:
            if name not in used:
                raise PluralignError(f"{place}: does not use '{name}', so all questions would be the same")

    def render(self, persona: Persona, prompt: Any, response: Any, labels: Sequence[DescribedLabel]) -> str:
        """The question to one persona about one response, which may be text or messages.

        Raises:
            PluralignError: the template fails, or gives an empty text.
        """
        try:
            text = self._template.render(
                persona=persona, prompt=transcript(prompt), response=transcript(response), labels=list(labels)
            )
        except TEMPLATE_FAULTS as fault:
            raise PluralignError(f"{self.place}: cannot be filled in: {' '.join(str(fault).split())}") from fault
        if not text.strip():
            raise PluralignError(f"{self.place}: gives an empty text for {one_line(persona.name)}")
        return text.strip()


def read_template(path: str | os.PathLike[str] | None = None) -> VoteTemplate:
    """Read the template in a file, or the default one.

    Raises:
        PluralignError: the file cannot be read, or is not a valid template.
    """
    if path is None:
        default = importlib.resources.files("pluralign.personas") / "templates" / "persona.jinja"
        return VoteTemplate(default.read_text(encoding="utf-8"), "the default template")
    with disk_errors(path):
        data = Path(path).read_bytes()
    try:
        return VoteTemplate(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as fault:
        raise PluralignError(f"{path}: byte {fault.start + 1} is not UTF-8: save the file as UTF-8") from fault


def transcript(text: Any) -> str:
    """A prompt or response as text: messages in order, with their roles unless there is only one message.

    Examples:
        >>> transcript([{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes"}])
        'user: Tea?\\n\\nassistant: Yes'
        >>> transcript([{"role": "assistant", "content": "Yes"}])
        'Yes'
    """
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return message_text(text[0])
    return "\n\n".join(f"{message['role']}: {message_text(message)}" for message in text)


def voters_of(items: Iterable[str], personas: int, per_item: int | None, seed: int) -> list[list[int]]:
    """Which personas vote on each item, in ascending order.

    The draw for an item depends only on the seed and the item's name, not on the other items.

    Args:
        items: the name of each item.
        personas: the number of personas.
        per_item: the number of them that vote on an item; `None` for all.
        seed: random seed.

    Raises:
        PluralignError: `per_item` is below 1 or above the number of personas.

    Examples:
        >>> voters_of(["a"], 3, None, 0)
        [[0, 1, 2]]
    """
    if per_item is None:
        return [list(range(personas)) for _ in items]
    if not 1 <= per_item <= personas:
        raise PluralignError(f"per_item: found {per_item}, expected 1 to {personas}, the number of personas")
    draws = (np.random.default_rng(int(fingerprint(seed, name), 16)) for name in items)
    return [sorted(draw.choice(personas, size=per_item, replace=False).tolist()) for draw in draws]


def _persona(entry: Value) -> Persona:
    if not isinstance(entry.content, dict):
        raise entry.complain(f"found {one_line(entry.plain())}, expected the keys name and description")
    for key, value in entry.content.items():
        if key not in ("name", "description"):
            raise value.complain(f"unknown key{nearest(str(key), ('name', 'description'))}")
    texts = {key: _text(entry.content.get(key), entry, key) for key in ("name", "description")}
    return Persona(**texts)


def _text(value: Value | None, entry: Value, key: str = "") -> str:
    if value is None:
        raise entry.complain(f"'{key}' is missing: a persona needs a name and a description")
    if not isinstance(value.content, str) or not value.content.strip():
        raise value.complain(f"found {one_line(value.plain())}, expected some text (in quotes, if it is a number)")
    return value.content.strip()

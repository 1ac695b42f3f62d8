"""The page of an audit: do annotators differ, can the data show it, and how do they differ."""

from __future__ import annotations

from collections.abc import Sequence

from pluralign.reports.annotators import annotators_section
from pluralign.reports.audit_record import (
    Agreement,
    AnnotatorType,
    AuditPage,
    Candidate,
    CheckedVerdict,
    Coefficient,
    Cycles,
    Data,
    Map,
    PowerPoint,
    Triples,
    Verdict,
)
from pluralign.reports.histograms import histogram_figure
from pluralign.reports.opinions import examples_section, views_blocks, views_section
from pluralign.reports.page import (
    Banner,
    Block,
    Card,
    Cards,
    Cell,
    Figure,
    Figures,
    Fold,
    Remarks,
    Section,
    Table,
    Tiles,
    Tone,
    render,
)
from pluralign.reports.plots import Curve, curves, type_map
from pluralign.reports.row_plots import Point, Row, bars, forest, scale, stacked
from pluralign.reports.texts import interval, known, number, percent, plural, quoted, text_of

_MOST_BARS, _MOST_GROUPS, _MOST_ROWS = 12, 20, 200
_VERDICTS: dict[str, tuple[Tone, str, str]] = {
    "one type": ("good", "✓", "The data would show types if there were any."),
    "identified": ("good", "✓", "The types are identified."),
    "weak": ("careful", "!", "The types are identified only weakly: treat them as a hypothesis."),
    "not identified": (
        "bad",
        "✕",
        "Different types would explain these judgments equally well: do not act on the types below.",
    ),
}
"""For each verdict its tone, its sign, and how far to trust the types."""

_ANSWERS: dict[str, tuple[Tone, str, str]] = {
    "continuum": ("careful", "!", "The types below describe how far annotators differ, but nobody belongs to one."),
    "undecided": ("careful", "?", "Treat the types below as a description, not as groups of people."),
}
"""The same for answers to how annotators differ that are not about types."""


def audit_page(audit: AuditPage) -> str:
    """The HTML page of an audit: self-contained; the same audit gives the same bytes."""
    return render("Audit", "of " + ", ".join(audit.data.files), audit_sections(audit))


def audit_sections(audit: AuditPage) -> list[Section]:
    """The sections of an audit's page: the result first, then the data, and statistics folded at the end."""
    several = len(audit.types) > 1
    sections = [Section("Verdict", _summary(audit))]
    if several:
        sections.append(Section("The types", [Cards([_card(kind) for kind in audit.types])]))
    if audit.type_views is not None and audit.type_views.responses:
        sections.append(views_section(audit.type_views))
    if audit.examples is not None and (audit.examples.divide or audit.examples.agree):
        sections.append(examples_section(audit.examples))
    sections += [
        Section(
            "Attributes of responses",
            _coefficients(audit.coefficients),
            "How much one unit of each attribute adds to the utility of a response, in log-odds, with standard error.",
        ),
        Section(
            "Who belongs to which type",
            _coefficients(audit.membership),
            "How much one unit of an annotator's attribute adds to the log-odds of a type against type 1, with "
            "standard error.",
        ),
    ]
    views = audit.group_views
    between = views_blocks(views, "groups") if views is not None and views.responses else []
    if blocks := [*(_groups(audit) if audit.groups and several else []), *between]:
        sections.append(
            Section("Known groups", blocks, "The groups named in the data. They were not used to fit types.")
        )
    sections += [
        Section("The data", _data(audit.data), "The number of judgments, their kinds, and the number of annotators."),
        Section("Agreement", _agreement(audit.agreement), "Do annotators who judged the same responses agree?"),
        *([] if audit.annotators is None else [annotators_section(audit.annotators)]),
        Section("Statistics", _statistics(audit)),
    ]
    return [section for section in sections if section.blocks]


def _statistics(audit: AuditPage) -> list[Block]:
    """What stands behind the verdict and the types, each part folded."""
    parts = [
        ("What the data can tell", _identification(audit.identification)),
        ("How many types", _selection(audit.selection, len(audit.types))),
        ("Shares, traits and map", _types(audit.types, audit.map)),
    ]
    return [Fold(title, blocks) for title, blocks in parts if blocks]


def verdict_banner(verdict: Verdict, sentence: str = "", heterogeneity: str = "", types: int = 2) -> Banner:
    """The verdict in its colour, with the sentence that says it, by default the reason.

    Green means good news: the question has a clear answer on which one can act. `types` is the number that is shown.
    """
    tone, sign, meaning = _VERDICTS.get(verdict.verdict, ("plain", "", ""))
    if verdict.verdict != "not identified" and heterogeneity in _ANSWERS:
        tone, sign, meaning = _ANSWERS[heterogeneity]
        meaning = meaning if types > 1 else ""
    elif verdict.verdict == "one type" and verdict.advice:
        tone, sign, meaning = "careful", "!", ""
    sentence = sentence or verdict.reason
    # A page has the sign that a terminal may lack.
    title = f"{sign} {sentence}".strip().replace("+- ", "±")
    lead = "What to do" if heterogeneity == "continuum" else "What would help"
    help_with = f"{lead}: {verdict.advice}" if verdict.advice else ""
    reason = "" if verdict.reason.lower() in sentence.lower() else verdict.reason
    label = f"Do these data show annotator types? Verdict: {verdict.verdict}"
    if heterogeneity:
        label = f"Do annotators differ, and how? Answer: {heterogeneity}. Types: {verdict.verdict}"
    return Banner(tone, label, title, [text for text in (meaning, reason, help_with) if text])


def _summary(audit: AuditPage) -> list[Block]:
    """The verdict, the key figures and the warnings."""
    data, alpha = audit.data, audit.agreement.krippendorff_alpha
    shares = sorted((kind.share for kind in audit.types), reverse=True)[:4]
    each = f"{number(round(data.judgments / data.annotators, 1))} judgments each on average" if data.annotators else ""
    kinds = [f"all {next(iter(data.kinds))}"] if len(data.kinds) == 1 else []
    kinds += [f"{plural(data.left_out, 'row')} left out"] if data.left_out else []
    tiles = [
        (
            "types shown" if audit.identification.heterogeneity in _ANSWERS else "types found",
            number(len(audit.types)),
            "largest first: " + ", ".join(map(percent, shares)) if len(shares) > 1 else "",
        ),
        ("judgments", number(data.judgments), ", ".join(kinds)),
        ("annotators", number(data.annotators), each),
        ("prompts", number(data.prompts), ""),
        ("unique responses", number(data.unique_responses), ""),
    ]
    if alpha is not None:
        tiles.append(("agreement (alpha)", number(round(alpha, 3)), "1 is full agreement, 0 is chance"))
    found = audit.identification
    blocks: list[Block] = [
        verdict_banner(found, found.sentence, found.heterogeneity, len(audit.types)),
        Tiles(tiles),
    ]
    return [*blocks, Remarks("Warnings", audit.warnings)] if audit.warnings else blocks


def _data(data: Data) -> list[Block]:
    """Kinds of judgments, judgments per annotator, lengths of rankings, sources and groups."""
    lengths = sorted(data.ranking_lengths.items(), key=lambda item: int(item[0]))
    sources, groups = (sorted(of.items(), key=lambda item: -item[1]) for of in (data.sources, data.groups))
    reading = "Half of the annotators gave about {} judgments or fewer. The type of those who gave few is less certain."
    figures = [
        _counts("Kinds of judgments", list(data.kinds.items()), "judgments", overlapping=True),
        histogram_figure(data.judgments_per_annotator, "Judgments per annotator", "judgments", "annotators", reading),
        _counts("Responses per ranking", [(f"{length} responses", count) for length, count in lengths], "rankings"),
        _counts("Sources", sources, "judgments"),
        _counts("Known groups", groups, "annotators"),
    ]
    shown = [figure for figure in figures if figure is not None]
    return [Figures(shown)] if shown else []


def _counts(title: str, ordered: Sequence[tuple[str, int]], unit: str, overlapping: bool = False) -> Figure | None:
    """Bars of two or more counts; a long tail of sources or groups is only in the table."""
    total = sum(count for _, count in ordered)
    if not total or len(ordered) < 2:
        return None
    shown, rest = ordered[:_MOST_BARS], ordered[_MOST_BARS:]
    name, most = max(ordered, key=lambda item: item[1])
    if overlapping:
        reading = "The kinds may overlap: a ranking can also hold ties or labels."
    else:
        reading = f"The largest is {quoted(name)} with {percent(most / total)} of the {unit}."
    if rest:
        share = percent(sum(count for _, count in rest) / total)
        reading += f" Not shown: {plural(len(rest), 'other')} with {share} of the {unit}."
    table = Table("The numbers", [title, unit], ordered, folded=True) if rest else None
    drawn = bars(shown, f"{title}: bars of {unit}.", whole=0 if overlapping else total)
    return Figure(title, drawn, reading, table=table)


def _agreement(agreement: Agreement) -> list[Block]:
    """Krippendorff's alpha, agreement with the other annotators, margins of majorities, and cycles."""
    figures = [] if agreement.krippendorff_alpha is None else [_alpha(agreement, agreement.krippendorff_alpha)]
    if (each := agreement.annotator_agreement) is not None:
        title, x_label = "Each annotator against the others", "agreement with the others"
        reading = (
            "Half of {n} annotators agree with the majority of the others in at most {} of the cases. Those on the "
        )
        reading += "left may be a minority with other preferences, or careless: the number alone does not tell."
        figures.append(histogram_figure(each, title, x_label, "annotators", reading))
    margins, x_label = agreement.majority_margins, "margin (0 evenly split, 1 unanimous)"
    unanimous = "" if margins.unanimous is None else f" {percent(margins.unanimous)} of them are unanimous."
    reading = "Half of the comparisons have a margin of at most {}." + unanimous
    reading += " Near 0 the crowd is split: a single reward can satisfy only half of it there."
    if any(margins.counts):
        figures.append(histogram_figure(margins, "Margins of majorities", x_label, "comparisons", reading))
    tiles = _cycles(agreement.intransitive_triples, agreement.condorcet_cycles)
    return [*([Figures(figures)] if figures else []), *([Tiles(tiles)] if tiles else [])]


def _alpha(agreement: Agreement, alpha: float) -> Figure:
    low, high = agreement.alpha_low, agreement.alpha_high
    if low is not None and low > 0:
        meaning = "Annotators agree more than by chance"
        meaning += ", but far from fully: the rest is noise or different preferences." if alpha < 0.8 else "."
    elif high is not None and high < 0:
        meaning = "Annotators disagree more than by chance: they judge similar responses in opposite ways."
    else:
        meaning = "This cannot be distinguished from chance."
    marks = [(0.0, "chance"), (1.0, "full agreement")]
    if min(alpha, *known(low), 0.0) < 0:
        marks.insert(0, (-1.0, "opposed"))
    shown = interval(alpha, low, high)
    description = f"Krippendorff's alpha {shown} on a scale from chance to full agreement."
    drawn = scale(Point(alpha, low, high), description, limits=(marks[0][0], 1.0), marks=marks)
    units = f"{plural(agreement.units, 'unit')} judged by two or more annotators"
    return Figure("Krippendorff's alpha", drawn, f"{shown}; {agreement.level} level, {units}. {meaning}")


def _cycles(triples: Triples | None, cycles: Cycles | None) -> list[tuple[str, str, str]]:
    tiles = []
    if triples is not None and triples.share is not None:
        meaning = f"of {plural(triples.triples, 'triple')} of responses: no ranking agrees with all majorities"
        tiles.append(("intransitive triples", percent(triples.share), meaning))
    if cycles is not None and cycles.prompts:
        of = f"of {number(cycles.prompts)}"
        meaning = "prompts where majorities prefer A to B, B to C and C to A: no ranking follows them all"
        tiles.append(("majority cycles", f"{number(cycles.cyclic)} {of}", meaning))
        meaning = "prompts where no response beats every other one by majority"
        tiles.append(("no majority winner", f"{number(cycles.without_winner)} {of}", meaning))
    return tiles


def _identification(verdict: CheckedVerdict) -> list[Block]:
    """How certain each annotator's type is, how many judgments are enough, and the checks."""
    figures = []
    if verdict.posterior_entropy is not None:
        title, x_label = "Uncertainty about each annotator's type", "entropy of the posterior over types (nats)"
        reading = "At 0 the type of an annotator is certain. Half of the annotators are at about {} or lower; those at "
        reading += "the right may belong to any of several types."
        figures.append(histogram_figure(verdict.posterior_entropy, title, x_label, "annotators", reading))
    if verdict.power:
        figures.append(_power(verdict.power))
    rows: list[list[Cell]] = [[check.name, check.value, check.meaning] for check in verdict.checks]
    blocks: list[Block] = [Figures(figures)] if figures else []
    return [*blocks, Table("Checks", ["check", "value", "meaning"], rows)]


def _power(points: Sequence[PowerPoint]) -> Figure:
    """Accuracy of the assigned types by judgments per annotator, a curve per design."""
    lines, best = [], []
    for index, design in enumerate(dict.fromkeys(point.design for point in points), 1):
        of = sorted((point for point in points if point.design == design), key=lambda point: point.judgments)
        accuracy = [point.accuracy for point in of]
        low, high = [point.low for point in of], [point.high for point in of]
        lines.append(Curve(design, [point.judgments for point in of], accuracy, low, high, index))
        top = max(of, key=lambda point: point.accuracy)
        best.append(f"{quoted(design)} reaches {percent(top.accuracy)} at {number(top.judgments)} judgments")
    head = ["design", "judgments per annotator", "accuracy", "from", "to", "with known types"]
    rows: list[list[Cell]] = [
        [point.design, point.judgments, point.accuracy, point.low, point.high, point.known] for point in points
    ]
    drawn = curves(lines, "Accuracy of the assigned types by judgments per annotator, a curve per design.",
                   x_label="judgments per annotator", y_label="annotators assigned their own type", limits=(0.0, 1.03),
                   shares=True)  # fmt: skip
    reading = "How often simulated annotators of these types are assigned their own type. "
    reading += f"At best, {'; '.join(best)}."
    legend, table = [(line.series, line.name) for line in lines], Table("The numbers", head, rows, folded=True)
    return Figure("How many judgments are enough", drawn, reading, legend, table)


def _selection(candidates: Sequence[Candidate], chosen: int) -> list[Block]:
    """Held-out log-likelihood and BIC by the number of types; nothing if the number was given."""
    if len(candidates) < 2:
        return []
    counts = [row.types for row in candidates]
    mark = (float(chosen), f"chosen: {chosen}")
    head = ["types", "held out", "from", "to", "BIC"]
    rows: list[list[Cell]] = [[str(row.types), row.held_out, row.low, row.high, row.bic] for row in candidates]
    table = Table("The numbers", head, rows, folded=True)
    scored = {row.types: row.held_out for row in candidates if row.held_out is not None}
    figures = []
    if scored:
        values, low, high = ([getattr(row, key) for row in candidates] for key in ("held_out", "low", "high"))
        drawn = curves([Curve("held out", counts, values, low, high)], "Held-out log-likelihood by number of types.",
                       x_label="number of types", y_label="log-likelihood per held-out judgment (nats)", mark=mark,
                       whole=True)  # fmt: skip
        best = max(scored, key=lambda types: scored[types])
        reading = f"Higher is better; the highest is at {plural(best, 'type')}."
        if chosen > 1 and {1, chosen} <= set(scored):
            gain = scored[chosen] - scored[1]
            sign = "+" if gain > 0 else ""
            reading += f" {plural(chosen, 'type')} instead of 1: {sign}{number(gain)} nats per judgment."
        figures.append(Figure("Prediction of held-out judgments", drawn, reading, table=table))
    bic = {row.types: row.bic for row in candidates if row.bic is not None}
    if bic:
        drawn = curves([Curve("BIC", counts, [row.bic for row in candidates], series=2)],
                       "BIC by number of types; lower is better.", x_label="number of types",
                       y_label="BIC, lower is better", mark=mark, whole=True)  # fmt: skip
        least = min(bic, key=lambda types: bic[types])
        reading = f"BIC adds a penalty for each parameter; it is lowest at {plural(least, 'type')}."
        figures.append(Figure("Fit and number of parameters", drawn, reading))
    return [Figures(figures)] if figures else []


def _types(types: Sequence[AnnotatorType], places: Map | None) -> list[Block]:
    """Shares with intervals, traits, and the map; a single type also with its utilities."""
    legend = [(kind.type, kind.name) for kind in types]
    several = len(types) > 1
    figures = [_shares(types)] if several else []
    if any(kind.traits for kind in types):
        figures.append(_traits(types, legend))
    if places is not None:
        drawn = type_map(places.x, places.y, places.type, "Map of the annotators, coloured by type.")
        reading = f"{plural(len(places.type), 'annotator')}, one dot each; annotators who judge alike are close. "
        figures.append(Figure("The annotators", drawn, reading + "Directions have no meaning.", legend))
    cards: list[Block] = [] if several else [Cards([_card(kind) for kind in types])]
    return [*([Figures(figures)] if figures else []), *cards]


def _shares(types: Sequence[AnnotatorType]) -> Figure:
    rows = [Row(kind.name, [Point(kind.share, kind.low, kind.high, kind.type)]) for kind in types]
    top = 1.1 * max(known(*(end for kind in types for end in (kind.share, kind.high)))) or 1.0
    drawn = forest(rows, "Share of each type with its interval.", x_label="share of the annotators",
                   limits=(0.0, min(1.0, top)), shares=True)  # fmt: skip
    largest = max(types, key=lambda kind: kind.share)
    reading = f"{quoted(largest.name)} is the largest with {percent(largest.share)} of the annotators."
    return Figure("Share of each type", drawn, reading)


def _traits(types: Sequence[AnnotatorType], legend: Sequence[tuple[int, str]]) -> Figure:
    """What each type prefers in a response: a row per trait, a dot per type."""
    points: dict[str, list[Point]] = {}
    numbers: list[list[Cell]] = []
    for kind in types:
        for trait in kind.traits:
            points.setdefault(trait.trait, []).append(Point(trait.value, trait.low, trait.high, kind.type))
            numbers.append([trait.trait, kind.name, trait.value, trait.low, trait.high])

    reading = "Right of the dashed line, a type prefers more of the trait; left of it, less. The weight is the gain in "
    reading += "log-odds of a response that has a standard deviation more of the trait."
    drawn = forest([Row(trait, of) for trait, of in points.items()],
                   "What each type prefers: a row per trait, a dot with its interval per type.",
                   x_label="weight of the trait (log-odds)", reference=0.0)  # fmt: skip
    table = Table("The numbers", ["trait", "type", "weight (log-odds)", "from", "to"], numbers, folded=True)
    return Figure("What each type prefers", drawn, reading, legend, table)


def _coefficients(coefficients: Sequence[Coefficient]) -> list[Block]:
    """A row per attribute and type, the types of an attribute below each other; nothing without attributes."""
    names = list(dict.fromkeys(row.name for row in coefficients))
    rows: list[list[Cell]] = [
        [row.name, "all" if row.type is None else str(row.type), row.value, row.standard_error]
        for row in sorted(coefficients, key=lambda row: names.index(row.name))
    ]
    return [Table("Coefficients", ["attribute", "type", "value", "error"], rows)] if rows else []


def _card(kind: AnnotatorType) -> Card:
    facts = [f"{plural(kind.annotators, 'annotator')}, {number(kind.certain)} of them with certainty"]
    if kind.low is not None and kind.high is not None:
        facts.append(f"share between {percent(kind.low)} and {percent(kind.high)}")
    if kind.tie_nu is not None:
        span = interval(kind.tie_nu, kind.tie_nu_low, kind.tie_nu_high)
        readiness = percent(kind.tie_nu / (2 + kind.tie_nu))
        facts.append(f"calls two responses that it likes equally a tie in {readiness} of cases (nu {span})")
    tables = []
    for title, differences in (
        ("Rates higher than other types", kind.lifts),
        ("Rates lower than other types", kind.drops),
    ):
        if differences:
            lines: list[list[Cell]] = [[row.response, row.difference, row.prompt] for row in differences]
            tables.append(_folded(title, *_once(["response", "difference (log-odds)", "prompt"], lines)))
    if kind.worths:
        rows: list[list[Cell]] = [[row.response, row.worth, row.low, row.high, row.prompt] for row in kind.worths]
        head = ["response", "utility (log-odds)", "from", "to", "prompt"]
        tables.append(_folded("Utility of each response", *_once(head, rows)))
    if kind.members:
        rows = [[member.annotator, member.probability] for member in kind.members]
        tables.append(_folded("Annotators of this type", ["annotator", "probability"], rows))
    return Card(kind.name, kind.type, kind.share, facts, tables)


def _once(head: list[str], rows: list[list[Cell]]) -> tuple[list[str], list[list[Cell]]]:
    """The table without its last column, the prompt, if it is the same everywhere."""
    same = len({row[-1] for row in rows}) == 1
    return (head[:-1], [row[:-1] for row in rows]) if same else (head, rows)


def _folded(title: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    count = number(len(rows))
    more = f", the first {_MOST_ROWS} of {count}" if len(rows) > _MOST_ROWS else f" ({count})"
    return Table(title + more, head, rows[:_MOST_ROWS], folded=True)


def _groups(audit: AuditPage) -> list[Block]:
    """The shares of the types in each known group."""
    ordered = sorted(audit.groups, key=lambda group: -group.annotators)
    legend = [(kind.type, kind.name) for kind in audit.types]
    shown = ordered[:_MOST_GROUPS]
    drawn = stacked(
        [(group.group or "(no name)", group.shares) for group in shown],
        "Each known group by the types of its annotators, as stacked bars.",
        notes=[plural(group.annotators, "annotator") for group in shown],
    )
    rand = audit.groups_adjusted_rand
    reading = "If all groups look alike, an annotator's group says nothing about their preferences."
    if rand is not None:
        meaning = "the types differ from the groups"
        if rand > 0.2:
            meaning = "the types match the groups" if rand > 0.8 else "the types match the groups in part"
        reading = f"Adjusted Rand index {number(rand)} (1 is the same partition, 0 is chance): {meaning}."
    rows: list[list[Cell]] = [
        [text_of(group.group), group.annotators, *(round(share, 3) for share in group.shares)] for group in ordered
    ]
    table = Table("The numbers", ["group", "annotators", *(name for _, name in legend)], rows, folded=True)
    return [Figures([Figure("Groups by type", drawn, reading, legend, table)])]

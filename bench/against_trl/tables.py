"""Tables of `bench/results/against_trl.md`."""

from __future__ import annotations

from typing import Any

from ..common.tables import named, paragraph, table


def small_language_model(found: Any) -> list[str]:
    text = """{millions:.2f} million parameters, {steps} steps: held-out loss {eval_loss:.3f} nats a token (a uniform
        guess: {uniform_loss:.3f})."""
    return [paragraph(text.format(millions=found["parameters"] / 1e6, **found))]


def dpo(found: Any) -> list[str]:
    intro = """beta {beta}, learning rate {learning_rate}, {batch} judgments a step, seed {seed}; HH one epoch of pairs
        of at most {max_length} tokens, QA-feedback three epochs at 512. Held-out prompts; 95 % intervals over
        prompts."""
    template = """
        | policy | trained on | steps | first loss | last loss | accuracy | log-loss | ECE | seconds |
        ---
        | {name} | {train} | {steps} | {first_loss:.6f} | {last_loss:.3f} | {accuracy.ci:.3f} | {log_loss.ci:.3f}
        | {ece.ci:.3f} | {seconds:.0f} |"""
    return [paragraph(intro.format_map(found["options"])), table(named(found["rows"]), template)]


def crowd(found: Any) -> list[str]:
    intro = """{votes} votes on {arguments} arguments, {options[topics]} topics; held out: 8 topics ({pairs} pairs with
        a majority). {options[max_length]} tokens, learning rate {options[learning_rate]} (twice that where a step
        holds four times the votes), seed {options[seed]}. Intervals: 95 %, bootstrap over topics."""
    template = """
        | training | votes in a step | epochs | seconds | accuracy | log-loss | ECE |
        ---
        | {name} | {batch} | {epochs} | {seconds:.0f} | {accuracy.ci:.3f} | {log_loss.ci:.3f} | {ece.ci:.3f} |"""
    return [paragraph(intro.format_map(found)), table(named(found["rows"]), template)]


TABLES = {make.__name__: make for make in (small_language_model, dpo, crowd)}

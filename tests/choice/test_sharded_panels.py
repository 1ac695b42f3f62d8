"""Latent classes of annotators who are sharded over two processes: the fit of one process."""

from dataclasses import replace

import numpy as np
import pytest
import torch.distributed

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.processes import dealt, from_first, of_everyone, sample_of
from pluralign.choice.latent_class.selection import select_types
from processes import in_two_processes

ANNOTATORS = 120


def panel_of(kind):
    """Pairs or rankings of two types of annotators, by worths or features, with weights or covariates."""
    draw = np.random.default_rng(0)
    shown = 2 if kind == "pairs" else 3
    count = 30 if kind == "sparse features" else 8
    annotator = np.repeat(np.arange(ANNOTATORS), 25)
    ids = np.stack([draw.permutation(count)[:shown] for _ in annotator])
    features = draw.normal(size=(count, 4)) if "features" in kind else None
    taste = draw.normal(size=(2, count)) if features is None else draw.normal(size=(2, 4)) @ features.T
    utility = 2.5 * taste[annotator % 2][np.arange(len(ids))[:, None], ids] + draw.gumbel(size=ids.shape)
    ranks = (-utility).argsort(1).argsort(1) + 1
    ranks[::7] = np.minimum(ranks[::7], 2)  # some ties
    reliability = draw.uniform(0.5, 1.5, len(ids)) if kind == "rankings" else None
    covariates = np.stack((np.ones(ANNOTATORS), np.arange(ANNOTATORS) % 3), 1) if kind == "covariates" else None
    population = draw.uniform(0.5, 2, ANNOTATORS) if kind == "features" else None
    return Panel(ids, ranks, annotator, features, reliability, population, covariates, response_total=count)


def fitted(panel, **settings):
    """What a fit says of the panel, as plain numbers; responsibilities are those of the panel's own annotators."""
    model = LatentClassPlackettLuce(seed=3, restarts=4, precision=1e-16, **settings).fit(panel)
    found = {
        "coefficients": model.coefficients_,
        "weights": model.mixture_weights_,
        "membership": model.membership_,
        "log_likelihood": model.log_likelihood_,
        "bic": model.bic_,
        "responsibilities": model.responsibilities_,
        "robust": np.sqrt(np.diag(model.covariance(panel, robust=True))),
    }
    return {name: np.asarray(values).tolist() for name, values in found.items()}


@pytest.mark.parametrize("kind", ["pairs", "rankings", "features", "sparse features", "covariates"])
@pytest.mark.parametrize("draft", [50_000, 1_000])
def test_two_processes_fit_what_one_does(kind, draft, tmp_path, monkeypatch):
    monkeypatch.setattr("pluralign.choice.latent_class.estimator.DRAFT_JUDGMENTS", draft)
    panel = panel_of(kind)
    settings = {"types": 2, "ridge": 0.1, "common_ridge": 0.1 if kind == "features" else None}
    settings |= {"noise": kind == "rankings", "shared": [1] if kind == "sparse features" else []}
    alone = fitted(panel, **settings)

    def sharded():
        torch.distributed.init_process_group("gloo")
        own = np.arange(50) if torch.distributed.get_rank() == 0 else np.arange(50, ANNOTATORS)
        return fitted(replace(panel.of_annotators(own), sharded=True), **settings)

    first, second = in_two_processes(sharded, tmp_path)
    for name, values in alone.items():
        if name == "responsibilities":
            found = first[name] + second[name]
        else:
            assert first[name] == second[name], name
            found = first[name]
        np.testing.assert_allclose(found, values, rtol=1e-8, atol=1e-8, err_msg=name)


def test_one_type_and_given_starts_in_two_processes(tmp_path):
    panel = panel_of("pairs")
    start = np.random.default_rng(1).normal(size=(2, 8))

    def both(own):
        one, two = (
            fitted(own, types=1, ridge=0.1),
            fitted(own, types=2, ridge=0.1, coefficients_init=start, polish=False, tolerance=1e-14),
        )
        return [found[name] for found in (one, two) for name in ("coefficients", "log_likelihood", "weights")]

    def sharded():
        torch.distributed.init_process_group("gloo")
        own = np.arange(50) if torch.distributed.get_rank() == 0 else np.arange(50, ANNOTATORS)
        return both(replace(panel.of_annotators(own), sharded=True))

    for found in in_two_processes(sharded, tmp_path):
        for values, expected in zip(found, both(panel), strict=True):
            np.testing.assert_allclose(values, expected, rtol=1e-8, atol=1e-8)


def test_a_sample_of_sharded_annotators_is_that_of_one_process(tmp_path):
    panel = panel_of("rankings")

    def sharded():
        torch.distributed.init_process_group("gloo")
        own = np.arange(50) if torch.distributed.get_rank() == 0 else np.arange(50, ANNOTATORS)
        part = replace(panel.of_annotators(own), sharded=True)
        return content(sample_of(part, 1000, 10, seed=0))

    def content(sample):
        return [
            sample.responses.tolist(),
            sample.ranks.tolist(),
            sample.annotator.tolist(),
            sample.reliability.tolist(),
        ]

    assert in_two_processes(sharded, tmp_path) == [content(sample_of(panel, 1000, 10, seed=0))] * 2


@pytest.mark.parametrize("kind", ["pairs", "rankings", "features", "covariates"])
def test_two_processes_choose_the_number_of_types_that_one_does(kind, tmp_path):
    panel = panel_of(kind)

    def content(selection):
        arrays = (
            selection.types, selection.held_out, selection.gain, selection.gain_error, selection.bic,
            selection.by_annotator, selection.continuum, selection.model.coefficients_,
        )  # fmt: skip
        numbers = [selection.chosen, selection.places, selection.heterogeneity]
        return numbers, [np.asarray(values).tolist() for values in arrays]

    def chosen(own):
        return content(select_types(own, range(1, 4), restarts=3, noise=kind == "rankings"))

    def sharded():
        torch.distributed.init_process_group("gloo")
        own = dealt(panel)
        assert own.sharded
        assert own.annotators < ANNOTATORS
        return chosen(own)

    numbers, arrays = chosen(panel)
    assert numbers[0] == (3 if kind == "rankings" else 2)  # with one kind that ranks at random
    for found in in_two_processes(sharded, tmp_path):
        assert (found[0][0], found[0][2]) == (numbers[0], numbers[2])
        assert found[0][1] == pytest.approx(numbers[1], rel=1e-12)
        for values, expected in zip(found[1], arrays, strict=True):
            np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)


def test_annotators_are_dealt_by_judgments_and_small_panels_are_not(tmp_path):
    draw = np.random.default_rng(0)
    annotator = np.repeat(np.arange(60), draw.integers(1, 40, 60))
    ids = np.stack([draw.permutation(5)[:2] for _ in annotator])
    panel = Panel(ids, np.tile([1, 2], (len(ids), 1)), annotator, response_total=5)
    few = panel.of_annotators(np.arange(30))

    def sharded():
        torch.distributed.init_process_group("gloo")
        own = dealt(panel)
        made = np.bincount(own.annotator_ids, minlength=own.annotators)
        return [
            own.judgments, of_everyone(own, made).tolist(), dealt(few) is few, of_everyone(few, np.arange(3)).tolist(),
            from_first(torch.distributed.get_rank),
        ]  # fmt: skip

    first, second = in_two_processes(sharded, tmp_path)
    assert first[0] + second[0] == panel.judgments
    assert abs(first[0] - second[0]) < 80  # two annotators' worth
    assert first[1] == second[1] == np.bincount(annotator).tolist()
    assert first[2:] == second[2:] == [True, [0, 1, 2], 0]
    assert dealt(panel) is panel  # a single process

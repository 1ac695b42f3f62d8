"""Types of annotators as sources: one-hot types are sources, files that are read, and the fit on a town."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.judgments.population import Town, simulate
from pluralign.scoring.items import items_of
from pluralign.scoring.mixtures import RESPONSIBILITIES, responsibilities_table
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.soft_sources import soft_sources
from pluralign.training.more.trainer import MORETrainer


def rows(count=36, people=6):
    """Person p is of source p % 3, so that sources are types."""
    draw = np.random.default_rng(0)
    words = ("good", "bad", "cat", "dog", "tea", "milk")
    return [
        {
            "prompt": f"Number {number % 5}:",
            "responses": [" ".join(draw.choice(words, 5)) + f" {number}.{index}" for index in range(3)],
            "ranks": (draw.permutation(3) + 1).tolist(),
            "annotator": f"w{number % people}",
            "source": f"s{number % people % 3}",
            "weight": 1.0 + number % 2,
        }
        for number in range(count)
    ]


def write(place, people):
    """Responsibilities of some people, by name."""
    gamma = np.array(list(people.values()), dtype=float)
    pq.write_table(responsibilities_table(list(people), np.ones(len(people), dtype=int), gamma), place)
    return place


def make(model, output, table, **values):
    torch.manual_seed(0)
    built = build_reward_model(model)
    with torch.no_grad():
        built.model.score.weight.mul_(20)
    defaults = {
        "output_dir": str(output), "use_cpu": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1,
        "disable_tqdm": True, "learning_rate": 1e-3,
    }  # fmt: skip
    args = MOREConfig(**{**defaults, **values})
    return MORETrainer(
        built.model, args=args, train_dataset=Judgments.from_rows(table), processing_class=built.tokenizer
    )


def config(output, **values):
    return MOREConfig(str(output), use_cpu=True, report_to="none", source="types", **values)


ONE_HOT = {f"w{person}": np.eye(3)[person % 3] for person in range(6)}


@pytest.mark.parametrize("values", [{}, {"normalize": "none"}, {"weights": "uniform"}], ids=str)
def test_one_hot_types_are_sources(values, tiny_model, tmp_path):
    """The weights, losses and parameters of the same batches, to the bit."""
    file = write(tmp_path / "people.parquet", ONE_HOT)
    found = {}
    for kind, chosen in (("source", {}), ("type", {"source": "types", "responsibilities": str(file)})):
        trainer = make(
            tiny_model, tmp_path, rows(), train_sampling_strategy="sequential", max_steps=3,
            per_device_train_batch_size=8, **chosen, **values,
        )  # fmt: skip
        trainer.train()
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        names = [f"{kind}={name}" for name in trainer.sources]
        keys = ("weight", "loss", "accuracy", "ece", "gradient_norm")
        kept = keys if "weights" not in values else keys[:-1]
        found[kind] = (
            [[entry[f"{key}/{name}"] for name in names for key in kept] for entry in logs],
            torch.cat([tensor.detach().flatten() for tensor in trainer.model.parameters()]),
        )
        assert trainer.sources == (["s0", "s1", "s2"] if kind == "source" else ["1", "2", "3"])
    assert found["type"][0] == found["source"][0]
    assert torch.equal(found["type"][1], found["source"][1])


def test_soft_types_weigh_every_judgment(tiny_model, tmp_path):
    """The loss is sum_k lambda_k of the means weighted by responsibility."""
    people = {f"w{person}": one for person, one in enumerate(np.random.default_rng(1).dirichlet(np.ones(2), 6))}
    trainer = make(
        tiny_model, tmp_path, rows(), source="types",
        responsibilities=str(write(tmp_path / "people.parquet", people)),
    )  # fmt: skip
    batch = list(range(14))
    inputs = trainer.data_collator(batch)
    gamma = np.array([people[f"w{number % 6}"] for number in batch])
    np.testing.assert_allclose(inputs["membership"].numpy(), gamma, rtol=1e-6)
    loss, utilities = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    losses = trainer._losses(utilities, inputs).detach().double().numpy()
    weight = inputs["weight"].double().numpy()[:, None] * gamma
    means = weight.T @ losses / weight.sum(0)
    found = trainer.source_logs.taken(trainer.accelerator)
    lambdas = np.array([found["weight/type=1"], found["weight/type=2"]])
    assert lambdas.sum() == pytest.approx(1)
    assert loss.item() == pytest.approx(lambdas @ means, rel=1e-5)
    assert [found["loss/type=1"], found["loss/type=2"]] == pytest.approx(means.tolist(), rel=1e-5)


def test_read_from_a_folder_or_a_file_in_any_order(tmp_path):
    """A run of em-dpo or an audit leaves such a folder; people have no order in it."""
    people = dict(reversed([(name, np.array([1.0, 3.0 + number, 1.0])) for number, name in enumerate(ONE_HOT)]))
    people = {name: own / own.sum() for name, own in people.items()} | {"stranger": np.array([0.2, 0.3, 0.5])}
    write(tmp_path / RESPONSIBILITIES, people)
    table = Judgments.from_rows(rows())
    items = items_of(table)
    for place in (tmp_path, tmp_path / RESPONSIBILITIES):
        found = soft_sources(table, items.row, config(tmp_path, responsibilities=str(place)))
        annotators = table.column("annotator")
        expected = np.array([people[annotators[row]] for row in items.row])
        np.testing.assert_allclose(found.shares[found.row], expected, rtol=1e-12)
        assert len(found.shares) == 6


def test_unknown_annotators_count_by_the_mean_share(tmp_path, caplog):
    """Those without an id too; the mean is over the people of the file."""
    known = {"w0": [0.9, 0.1], "w1": [0.5, 0.5], "w99": [0.1, 0.9], "w98": [0.1, 0.9]}
    write(tmp_path / "people.parquet", known)
    table = Judgments.from_rows([row | ({"annotator": None} if row["annotator"] == "w5" else {}) for row in rows(12)])
    transformers.utils.logging.enable_propagation()
    try:
        found = soft_sources(table, np.arange(12), config(tmp_path, responsibilities=str(tmp_path / "people.parquet")))
    finally:
        transformers.utils.logging.disable_propagation()
    mean = np.mean(list(known.values()), 0)
    for number in range(12):
        expected = known.get(f"w{number % 6}", mean)
        np.testing.assert_allclose(found.shares[found.row[number]], expected, rtol=1e-12)
    assert "5 of 7 annotators have no responsibilities" in caplog.text  # w2, w3, w4, and two rows by nobody


def test_files_that_do_not_serve_are_refused(tmp_path):
    table, every = Judgments.from_rows(rows(12)), np.arange(12)

    def refused(place, expected):
        with pytest.raises(PluralignError, match=expected):
            soft_sources(table, every, config(tmp_path, responsibilities=str(place)))

    refused(write(tmp_path / "strangers.parquet", {"x": [0.5, 0.5]}), "strangers.parquet knows none of the 6 annot")
    refused(tmp_path / "missing.parquet", "missing.parquet")
    refused(tmp_path, RESPONSIBILITIES)
    (tmp_path / "text.parquet").write_text("annotator,probability_1\n")
    refused(tmp_path / "text.parquet", "text.parquet: not a readable Parquet file")
    pq.write_table(pa.table({"annotator": ["w0"], "type": [1]}), tmp_path / "types.parquet")
    refused(tmp_path / "types.parquet", "expected the columns annotator, probability_1")
    for number, wrong in enumerate(([0.5, float("nan")], [1.5, -0.5], [0.0, 0.0], [float("inf"), 0.0])):
        file = write(tmp_path / f"wrong-{number}.parquet", {"w0": [0.5, 0.5], "w1": wrong})
        refused(file, "responsibilities: those of w1 in .* expected shares of at least 0")
    holes = pa.table({"annotator": ["w0"], "probability_1": [0.4], "probability_2": pa.array([None], pa.float64())})
    pq.write_table(holes, tmp_path / "holes.parquet")
    refused(tmp_path / "holes.parquet", "responsibilities: those of w0")


def test_shares_that_do_not_sum_to_one_are_brought_to_it(tmp_path):
    file = write(tmp_path / "counts.parquet", {f"w{person}": [3.0, 1.0 + person] for person in range(6)})
    found = soft_sources(Judgments.from_rows(rows(12)), np.arange(12), config(tmp_path, responsibilities=str(file)))
    np.testing.assert_allclose(found.shares.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(found.shares[found.row[1]], [0.6, 0.4], rtol=1e-12)


def test_the_fit_finds_the_types_of_a_town(tmp_path):
    """Each person's likeliest type is the one it was made of, for nine of ten people; and the seed decides."""
    simulation = simulate(Town(annotators=45, judgments_per_annotator=12, responses=4, noise=0.5, careless=0.0))
    table = simulation.judgments
    items = items_of(table)
    args = config(tmp_path, types=3, features="tfidf", dimensions=16)
    found = soft_sources(table, items.row, args)
    assert found.shares.shape == (45, 3)
    annotators = table.column("annotator")
    truth = np.array([simulation.type_index[annotators[row]] for row in items.row])
    told = found.shares.argmax(1)[found.row]
    agreement = max(np.mean(np.array(order)[told] == truth) for order in itertools.permutations(range(3)))
    assert agreement >= 0.9
    again = soft_sources(table, items.row, args)
    np.testing.assert_array_equal(again.shares, found.shares)


def test_source_weights_name_types_by_number(tiny_model, tmp_path):
    file = str(write(tmp_path / "people.parquet", ONE_HOT))
    values = {"source": "types", "responsibilities": file, "weights": "fixed"}
    trainer = make(tiny_model, tmp_path, rows(), source_weights={"1": 1.0, "2": 0.0, "3": 3.0}, max_steps=1, **values)
    trainer.train()
    logs = trainer.state.log_history[0]
    assert [logs[f"weight/type={name}"] for name in "123"] == pytest.approx([0.25, 0.0, 0.75])
    with pytest.raises(PluralignError, match="source_weights: found s0, expected one for each of 1, 2, 3"):
        make(tiny_model, tmp_path, rows(), source_weights={"s0": 1.0}, **values)


def test_a_type_to_which_nobody_belongs_has_no_weight(tiny_model, tmp_path):
    people = {name: [*own[:2], own[2], 0.0] for name, own in ONE_HOT.items()}
    trainer = make(
        tiny_model, tmp_path, rows(), source="types", max_steps=2,
        responsibilities=str(write(tmp_path / "people.parquet", people)),
    )  # fmt: skip
    trainer.train()
    for entry in trainer.state.log_history[:2]:
        assert entry["weight/type=4"] == 0
        assert sum(entry[f"weight/type={name}"] for name in "123") == pytest.approx(1)
        assert "loss/type=4" not in entry

"""The order of judgments: each once, those that share responses together, another order every epoch."""

import itertools

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from pluralign.judgments import Judgments
from pluralign.scoring.items import items_of
from pluralign.training.batches import JudgmentIndices, JudgmentSampler, PaddedCollator, PaddedSampler


def all_pairs(prompts, responses, people):
    rows = [
        {"prompt": f"p{prompt}", "responses": [f"r{a}", f"r{b}"], "ranks": [1, 2]}
        for prompt in range(prompts)
        for a, b in itertools.combinations(range(responses), 2)
        for _ in range(people)
    ]
    return items_of(Judgments.from_rows(rows))


@pytest.mark.parametrize("group", [1, 3, 16])
def test_every_judgment_comes_once_in_an_order_of_its_epoch(group, town_rows):
    items = items_of(Judgments.from_rows(town_rows))
    sampler = JudgmentSampler(items, group, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(items.judgments)) == sorted(set(first))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(JudgmentSampler(items, group, seed=2)) != first
    assert len(sampler) == items.judgments


def test_groups_are_of_one_prompt_and_share_responses():
    """On items judged all against all by five people, 20 judgments in a row need few responses."""
    items = all_pairs(prompts=6, responses=16, people=5)
    sampler = JudgmentSampler(items, 20, seed=0)
    shown = {group: [] for group in (1, 20)}
    for group, counts in shown.items():
        order = list(JudgmentSampler(items, group, seed=0))
        for start in range(0, len(order) - 20, 20):
            batch = order[start : start + 20]
            counts.append(len({response for one in batch for response in items.response[items.shown(one)]}))
    assert np.mean(shown[20]) < 0.45 * np.mean(shown[1])
    of_prompt = items.prompt[list(sampler)]
    changes = np.count_nonzero(np.diff(of_prompt))
    assert changes < 2 * items.judgments / 20


@pytest.mark.parametrize(("processes", "batch"), [(2, 4), (3, 2), (4, 8)])
def test_in_several_processes_every_judgment_comes_once(processes, batch, town_rows):
    """Processes have the same number of batches, in the order that one process has."""
    items = items_of(Judgments.from_rows(town_rows[:21]))
    alone = JudgmentSampler(items, 2, seed=1)
    read = []
    for rank in range(processes):
        padded = PaddedSampler(JudgmentSampler(items, 2, seed=1), batch * processes)
        collate = PaddedCollator(lambda entries: {"judgment": list(entries), "weight": torch.ones(len(entries))})
        loader = DataLoader(JudgmentIndices(items.judgments), batch, sampler=padded, collate_fn=collate)
        shard = prepare_data_loader(
            loader, num_processes=processes, process_index=rank, put_on_device=False, use_seedable_sampler=False
        )
        shard.set_epoch(1)
        read.append(
            [[entry for entry, weight in zip(one["judgment"], one["weight"], strict=True) if weight] for one in shard]
        )
    assert len({len(batches) for batches in read}) == 1
    alone.set_epoch(1)
    assert [entry for batches in zip(*read, strict=True) for own in batches for entry in own] == list(alone)

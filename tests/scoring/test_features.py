"""Features: fixed by the texts, finite, cached by content."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.scoring.features import text_features
from pluralign.scoring.items import items_of
from pluralign.scoring.reward_models import build_reward_model


@pytest.fixture(scope="module")
def items(town_rows):
    return items_of(Judgments.from_rows(town_rows))


@pytest.mark.parametrize("method", ["tfidf", "tiny_model", "tiny_encoder"])
@pytest.mark.parametrize("reads", ["response", "prompt+response"])
def test_features_are_finite_deterministic_and_read_back(method, reads, items, request, tmp_path):
    method = method if method == "tfidf" else request.getfixturevalue(method)
    first = text_features(items, method, dimensions=16, reads=reads, cache=tmp_path / "a")
    again = text_features(items, method, dimensions=16, reads=reads, cache=tmp_path / "b")
    np.testing.assert_array_equal(first, again)
    assert first.shape == (len(items.responses), 16 if method == "tfidf" else 32)
    assert np.isfinite(first).all()
    (file,) = (tmp_path / "a" / "features").iterdir()
    written = file.stat().st_mtime_ns
    np.testing.assert_array_equal(text_features(items, method, dimensions=16, reads=reads, cache=tmp_path / "a"), first)
    assert file.stat().st_mtime_ns == written, "read from the cache"


def test_other_texts_or_settings_are_other_cache_entries(items, tmp_path, town_rows):
    text_features(items, dimensions=4, cache=tmp_path)
    text_features(items, dimensions=5, cache=tmp_path)
    text_features(items_of(Judgments.from_rows(town_rows[:-1])), dimensions=4, cache=tmp_path)
    assert len(list((tmp_path / "features").iterdir())) == 3


def test_encoder_features_are_mean_states(items, tiny_encoder, tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_encoder), AutoModel.from_pretrained(tiny_encoder).eval()
    ids = tokenizer(items.responses[3], add_special_tokens=False)["input_ids"]
    row = {"input_ids": torch.tensor([[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]])}
    with torch.no_grad():
        expected = model(**row).last_hidden_state.mean(1)[0].numpy()
    np.testing.assert_allclose(text_features(items, tiny_encoder, cache=tmp_path)[3], expected, rtol=1e-4, atol=1e-6)
    assert build_reward_model(tiny_encoder) is not None


def test_few_texts_keep_their_distances(tmp_path):
    rows = [{"prompt": "", "responses": ["tea", "milk", "tea milk"], "ranks": [1, 2, 3]}]
    found = text_features(items_of(Judgments.from_rows(rows)), dimensions=128, cache=tmp_path)
    assert found.shape == (3, 3)
    np.testing.assert_allclose((found**2).sum(1), 1.0, rtol=1e-5)
    assert found[0] @ found[1] == pytest.approx(0.0, abs=1e-6)


def test_texts_without_a_word_are_refused(tmp_path):
    rows = [{"prompt": "", "responses": ["!", "?"], "ranks": [1, 2]}]
    with pytest.raises(PluralignError, match="no word"):
        text_features(items_of(Judgments.from_rows(rows)), cache=tmp_path)

"""What many tests share: tiny models, small tables, the real data's folder."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests run side by side, and small tensors with several threads each are many times slower than with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PLURALIGN_CACHE"] = tempfile.mkdtemp(prefix="pluralign-tests-")  # never the user's own

NO_BROWSER = shutil.which("chromium") is None and not os.environ.get("CI")
DATA = Path(os.environ.get("PLURALIGN_DATA") or Path(__file__).parents[1].parent / "shared" / "data")
NO_DATA = not DATA.is_dir()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what cannot run here: tests in a browser where there is none (under CI they stay, and fail), and
    tests on real data where the data is not."""

    def can_run(item: pytest.Item) -> bool:
        if NO_BROWSER and item.get_closest_marker("browser"):
            return False
        return not (NO_DATA and "shared_data" in getattr(item, "fixturenames", ()))

    left_out = [item for item in items if not can_run(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if can_run(item)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each kind of test that was deselected."""
    if NO_BROWSER:
        terminalreporter.write_line("Deselected: tests in a browser, which need `chromium` on the path.")
    if NO_DATA:
        terminalreporter.write_line(
            f"Deselected: tests on real data, which is not at {DATA}. CONTRIBUTING.md lists the data sets; "
            "set PLURALIGN_DATA to their folder."
        )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data sets (`PLURALIGN_DATA`, else `shared/data` beside the repository)."""
    return DATA


WORDS = ("good", "bad", "cat", "dog", "tea", "milk", "rain", "sun")


@pytest.fixture(scope="session")
def town_rows() -> list[dict]:
    """160 rankings of two to four short answers; people like the word good and dislike bad."""
    draw = random.Random(0)
    rows = []
    for number in range(160):
        responses = [
            " ".join(draw.choices(WORDS, k=draw.randint(3, 9))) + f" {number}.{index}"
            for index in range(draw.choice([2, 3, 4]))
        ]
        scores = [text.split().count("good") - text.split().count("bad") for text in responses]
        rows.append(
            {
                "prompt": f"Say something about number {number % 20}:",
                "responses": responses,
                "ranks": [1 + sum(other > score for other in scores) for score in scores],
                "annotator": f"w{number % 9}",
                "source": "ab"[number % 2],
            }
        )
    return rows


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, town_rows: list[dict]) -> Path:
    """An untrained causal model of a few thousand weights, in a folder."""
    from pluralign.demo.from_scratch import make_causal_model

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    texts = [text for row in town_rows for text in [row["prompt"], *row["responses"]]]
    make_causal_model(texts, folder, vocab_size=320, hidden_size=32, layers=2, heads=2, context=96)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, town_rows: list[dict]) -> Path:
    """An untrained BERT of a few thousand weights, in a folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    texts = [text for row in town_rows for text in [row["prompt"], *row["responses"]]]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.model_max_length = 96
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=96,
    )
    BertModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model whose weights are large enough that a few training steps matter and some tokens are likely."""
    from architectures import write_model

    return write_model("llama", tiny_model, tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def reference_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Gives the test an empty cache, and returns the folder in it for the reference model's log-probabilities."""
    monkeypatch.setenv("PLURALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference-log-probs"

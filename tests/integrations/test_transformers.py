"""The Trainer's own loops become rows: splits, epochs, labels, checkpoints, and nothing left behind."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import actlab
from actlab.errors import StoreError
from actlab.integrations.transformers import ActivationHistogramCallback

WORDS = 24
TINY = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
BART = TINY | {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 16,
    "decoder_start_token_id": 0,
}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)


@pytest.fixture
def path(tmp_path):
    return os.fspath(tmp_path / "run.zarr")


class Sentences(Dataset):
    """Random words; of a causal model they are the labels, too, but for the first two."""

    def __init__(self, n=8, classes=None):
        random = torch.Generator().manual_seed(n)
        self.words = torch.randint(3, WORDS, (n, 6), generator=random)
        self.labels = self.words.clone()
        self.labels[:, :2] = -100
        if classes is not None:
            self.labels = torch.randint(0, classes, (n,), generator=random)

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        return {"input_ids": self.words[index], "labels": self.labels[index]}


def gpt():
    torch.manual_seed(0)
    sizes = {"n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**TINY, **sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS, num_labels=3, **sizes))


class Ordered(Trainer):
    """A Trainer of somebody's own, which does not shuffle."""

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=2)


def trainer_of(model, path, *callbacks, kind=Trainer, **options):
    options = {"num_train_epochs": 2, "save_strategy": "no", "logging_steps": 1} | options
    data = {key: options.pop(key, Sentences()) for key in ("train_dataset", "eval_dataset")}
    made_of = {key: options.pop(key) for key in ("optimizers", "compute_metrics") if key in options}
    arguments = Seq2SeqTrainingArguments if kind is Seq2SeqTrainer else TrainingArguments
    args = arguments(
        output_dir=os.fspath(Path(path).parent),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        **options,
    )
    return kind(model, args, callbacks=list(callbacks), **data, **made_of)


def hooks(model):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


def rows(path, split):
    data = actlab.open_run(path)[split]
    return data.step.values.tolist(), data.epoch.values.tolist()


def test_the_run_equals_that_of_a_plain_loop(path, tmp_path):
    model = gpt()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pair = optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1)
    trainer = trainer_of(
        model,
        path,
        ActivationHistogramCallback(path),
        kind=Ordered,
        optimizers=pair,
        max_grad_norm=0,
        eval_strategy="epoch",
    )
    trainer.train()
    trainer.predict(Sentences(4))
    plain, twin = os.fspath(tmp_path / "plain.zarr"), gpt()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    with actlab.Recorder(twin, plain) as recorder:

        def run(split, epoch, loader):
            for batch in loader:
                labels = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
                n = labels.ne(-100).sum()  # the Trainer divides by it, a mean rounds in another way
                with recorder.batch(split, epoch, labels):
                    loss = twin(**batch, num_items_in_batch=n).loss
                recorder.log(loss=loss.detach())
                if split == "train":
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()

        for epoch in range(2):
            twin.train()
            run("train", epoch, DataLoader(Sentences(), 2))
            twin.eval()
            with torch.no_grad():
                run("valid", epoch, DataLoader(Sentences(), 4))
        with torch.no_grad():
            run("test", 1, DataLoader(Sentences(4), 4))
    ours, theirs = actlab.open_run(path), actlab.open_run(plain)
    for split in ("train", "valid", "test"):
        assert ours[split].layer.values.tolist() == theirs[split].layer.values.tolist()
        for name in ("counts", "n", "step", "epoch", "batch", "train_step", "log_loss"):
            assert (ours[split][name].values == theirs[split][name].values).all(), (split, name)
        for name in ("head", "label", "step"):
            assert (ours.raw(split)[name].values == theirs.raw(split)[name].values).all(), (split, name)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert hooks(model) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 3, "eval_on_start": True},
        {"label_smoothing_factor": 0.1, "bf16": True},
        {
            "activation_checkpointing": True,
            "eval_strategy": "epoch",
            "save_strategy": "steps",
            "save_steps": 2,
        },
    ],
)
def test_each_micro_batch_has_a_row_and_the_weights_are_the_same(path, options):
    without = trainer_of(gpt(), path, kind=Ordered, **options)
    without.train()
    callback = ActivationHistogramCallback(path)
    trainer = trainer_of(gpt(), path, callback, kind=Ordered, **options)
    trainer.train()
    assert rows(path, "train") == (list(range(8)), [0] * 4 + [1] * 4)
    data = actlab.open_run(path)["train"]
    assert data.log_lr.notnull().all()
    loss = gpt()(**next(iter(DataLoader(Sentences(), 2)))).loss.item()
    assert abs(data.log_loss.values[0] - loss) < 0.1  # smoothed and rounded, but not divided
    if "eval_on_start" in options:
        assert rows(path, "valid") == ([0, 1], [-1, -1])
    pairs = zip(trainer.model.parameters(), without.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert hooks(trainer.model) == hooks(without.model)
    assert callback.recorder is None


def test_labels_metrics_and_the_split_of_an_evaluation(path):
    callback = ActivationHistogramCallback(path)
    trainer = trainer_of(
        bert(),
        path,
        callback,
        train_dataset=Sentences(classes=3),
        eval_dataset=Sentences(classes=3),
        compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()},
    )
    metrics = trainer.evaluate()
    trainer.evaluate(Sentences(4, classes=3), metric_key_prefix="test")
    assert rows(path, "valid") == ([0, 1], [-1, -1])
    run = actlab.open_run(path)
    assert run["valid"].log_eval_accuracy.values[-1] == metrics["eval_accuracy"]
    assert run.raw("valid")["label"].values.tolist() == Sentences(classes=3).labels.tolist()
    assert run["test"].sizes["step"] == 1
    assert run.attributes["head"] == "classifier"
    assert run.attributes["targets"] == "classes"
    assert hooks(trainer.model) == 0


class Fails(TrainerCallback):
    """Fails at one event, as anything in a training may."""

    def __init__(self, event, error):
        setattr(self, event, self.fail)
        self.error = error

    def fail(self, *_, **__):
        raise self.error


class Broken(Trainer):
    """Fails once, amid a training step."""

    calls = 0

    def compute_loss(self, *args, **kwargs):
        found = super().compute_loss(*args, **kwargs)
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return found


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    ("event", "error", "n"),
    [
        ("on_step_begin", KeyboardInterrupt, 0),
        ("on_optimizer_step", ValueError, 1),
        ("on_prediction_step", ValueError, 4),
        ("on_evaluate", KeyboardInterrupt, 4),
        ("on_epoch_end", ValueError, 4),
    ],
)
def test_a_failure_leaves_a_run_that_is_closed_and_no_hook(path, event, error, n, is_late):
    callback = ActivationHistogramCallback(path)
    trainer = trainer_of(gpt(), path, *([] if is_late else [callback]), eval_strategy="epoch")
    if is_late:
        trainer.add_callback(callback)
    trainer.add_callback(Fails(event, error))
    with pytest.raises(error):
        trainer.train()
    assert hooks(trainer.model) == 0
    run = actlab.open_run(path)
    assert run.attributes["closed"]
    assert len(run["train"].step if n else []) == n


def test_a_step_that_fails_makes_no_row_and_training_can_go_on(path):
    trainer = trainer_of(gpt(), path, ActivationHistogramCallback(path), kind=Broken)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert hooks(trainer.model) == 0
    assert rows(path, "train") == ([0, 1], [0, 0])
    trainer.train()
    assert rows(path, "train") == (list(range(10)), [0] * 2 + [1] * 4 + [2] * 4)


@pytest.mark.parametrize("is_new_process", [False, True])
def test_a_checkpoint_goes_on_in_its_run(path, tmp_path, is_new_process):
    options = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 3}
    callback = ActivationHistogramCallback(path)
    trainer = trainer_of(gpt(), path, callback, **options, train_dataset=Sentences(16))
    trainer.add_callback(Fails("on_epoch_end", RuntimeError))
    with pytest.raises(RuntimeError):
        trainer.train()
    if is_new_process:
        callback = ActivationHistogramCallback(path)
        trainer = trainer_of(gpt(), path, callback, **options, train_dataset=Sentences(16))
    else:
        trainer.remove_callback(Fails)
    trainer.train(resume_from_checkpoint=os.fspath(tmp_path / "checkpoint-3"))
    assert rows(path, "train") == (list(range(16)), [0] * 8 + [1] * 8)
    run = actlab.open_run(path)
    assert run["train"].batch.values.tolist() == list(range(8)) * 2
    assert run.attributes["attempts"] == [0, 6]


def test_each_of_two_callbacks_goes_on_in_its_run(path, tmp_path):
    paths = path, os.fspath(tmp_path / "second.zarr")
    for n in (1, 2):
        both = map(ActivationHistogramCallback, paths)
        trainer = trainer_of(gpt(), path, *both, num_train_epochs=n, save_strategy="epoch")
        trainer.train(resume_from_checkpoint=n > 1)
    assert rows(paths[0], "train") == rows(paths[1], "train") == (list(range(8)), [0] * 4 + [1] * 4)


def test_a_checkpoint_whose_run_is_gone_begins_a_new_one(path):
    trainer_of(gpt(), path, ActivationHistogramCallback(path), save_strategy="epoch").train()
    shutil.rmtree(path)
    trainer = trainer_of(gpt(), path, ActivationHistogramCallback(path), num_train_epochs=3)
    with pytest.warns(RuntimeWarning, match="a new run begins"):
        trainer.train(resume_from_checkpoint=True)
    assert rows(path, "train") == (list(range(4)), [2] * 4)


def test_of_a_dict_to_evaluate_the_part_named_test_is_the_test_split(path):
    options = {"eval_strategy": "epoch", "eval_dataset": {"a": Sentences(), "test": Sentences(4)}}
    trainer_of(gpt(), path, ActivationHistogramCallback(path), **options).train()
    assert rows(path, "valid") == (list(range(4)), [0, 0, 1, 1])
    assert rows(path, "test") == ([0, 1], [0, 1])


def test_a_run_of_before_is_not_replaced(path):
    trainer_of(gpt(), path, ActivationHistogramCallback(path), max_steps=1).train()
    trainer = trainer_of(gpt(), path, ActivationHistogramCallback(path))
    with pytest.raises(StoreError, match="overwrite"):
        trainer.train()
    with pytest.raises(StoreError, match="overwrite"):
        trainer.evaluate()
    assert hooks(trainer.model) == 0


def test_a_late_callback_says_what_it_misses(path):
    callback = ActivationHistogramCallback(path)
    trainer = trainer_of(gpt(), path)
    trainer.add_callback(callback)
    with pytest.warns(RuntimeWarning, match=r"pass the callback to Trainer"):
        trainer.evaluate()
    trainer.evaluate()
    assert rows(path, "valid") == ([0, 1], [-1, -1])
    trainer.remove_callback(callback)
    trainer.train()
    assert hooks(trainer.model) == 0
    assert "train" not in actlab.open_run(path).splits


def test_what_is_generated_for_one_batch_is_one_row(path):
    torch.manual_seed(0)
    trainer = trainer_of(
        BartForConditionalGeneration(BartConfig(**BART)),
        path,
        ActivationHistogramCallback(path),
        kind=Seq2SeqTrainer,
        predict_with_generate=True,
        generation_max_length=5,
        compute_metrics=lambda _: {},
    )
    trainer.train()
    trainer.evaluate()
    assert rows(path, "valid") == ([0, 1], [1, 1])
    run = actlab.open_run(path)
    assert run.attributes["head"] == "lm_head"
    assert run.raw("train")["label"].shape == (8 * 2 * 6,)


@pytest.mark.parametrize("is_shifted", [False, True])
def test_labels_are_shifted_only_where_the_model_does(path, is_shifted):
    model = gpt() if is_shifted else BartForCausalLM(BartConfig(**BART))
    trainer_of(model, path, ActivationHistogramCallback(path), kind=Ordered, max_steps=1).train()
    run = actlab.open_run(path)
    found = run.raw("train")["label"].values.reshape(2, 6)
    labels = Sentences().labels[:2]
    expected = nn.functional.pad(labels[:, 1:], (0, 1), value=-100) if is_shifted else labels
    assert found.tolist() == expected.tolist()


def test_labels_of_the_user_are_taken_as_they_are(path):
    callback = ActivationHistogramCallback(path, labels=lambda inputs: inputs["input_ids"] % 2)
    trainer_of(gpt(), path, callback, kind=Ordered, max_steps=1).train()
    found = actlab.open_run(path).raw("train")["label"].values
    assert found.tolist() == (Sentences().words[:2] % 2).flatten().tolist()


def test_trackers_are_told_when_an_epoch_was_evaluated(path):
    told = []

    class Tracker:
        def push(self, run, epoch):
            told.append((epoch, actlab.open_run(run)["valid"].sizes["step"]))

    callback = ActivationHistogramCallback(path, trackers=[Tracker()])
    trainer_of(gpt(), path, callback, eval_strategy="epoch").train()
    assert told == [(0, 2), (1, 4)]

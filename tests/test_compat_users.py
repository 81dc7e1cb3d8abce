"""What people do with transformers' Bark besides generating: adapters, trainers, offloading, copies."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
import warnings

import pytest
import torch

from barklite import Voice, compat
from tests import builders
from tests.compat_long import compare
from tests.fakehub import FakeHub
from tests.test_compat import (  # noqa: F401
    GIVEN,
    PARTS,
    SHORT,
    TEXT,
    directory,
    history,
    inputs,
    model,
    oracle,
    run,
    same_run,
    small,
    small_args,
    stage,
)

transformers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")


def close(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def pair(part="semantic", seed=0):
    """One small model of ours, and transformers' with its weights."""
    kind, config, other_kind, other_config = small(part)
    torch.manual_seed(seed)
    ours, theirs = kind(config), other_kind(other_config).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


# --- adapters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [["att_proj", "out_proj"], "all-linear", ["att_proj", "lm_head"]])
@pytest.mark.parametrize("part", PARTS)
def test_lora(part, targets, tmp_path):
    """Twenty steps; the adapter saved, loaded here and by transformers; merged: the same logits."""
    peft = pytest.importorskip("peft")
    if part == "fine_acoustics" and "lm_head" in targets:
        pytest.skip("the fine model has lm_heads")
    ours, theirs = pair(part)
    plain, args, labels = copy.deepcopy(ours), small_args(part), torch.randint(0, 30, (2, 9))
    adapted = peft.get_peft_model(ours, peft.LoraConfig(r=4, lora_alpha=16, target_modules=targets))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(20):
        losses.append(adapted(*args, labels=labels).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.95 * losses[0]
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = adapted.eval()(*args).logits
        assert not torch.allclose(expected, plain(*args).logits)
        close(peft.PeftModel.from_pretrained(theirs, tmp_path).eval()(*args).logits, expected)
        again = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
        close(again(*args).logits, expected)
        if part == "fine_acoustics" and targets == "all-linear":
            return  # heads are tables: what is added to one would be added to both
        merged = again.merge_and_unload()
        assert type(merged) is type(plain)
        close(merged(*args).logits, expected, 1e-4)


@pytest.mark.parametrize("part", PARTS)
def test_adapters_reach_generation(part, oracle, directory):  # noqa: F811
    """A stage's fast path computes what has replaced a module, and transformers' gives the same tokens."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["att_proj", "in_proj"], init_lora_weights=False)
    given = GIVEN[part][:, :40] if part != "semantic" else GIVEN[part]
    options = dict(max_new_tokens=20) if part == "semantic" else {}
    bark, theirs = compat.BarkModel.from_pretrained(directory), copy.deepcopy(oracle)
    plain = stage(bark, part, 5, given, {}, **options)[0]
    torch.manual_seed(0)
    adapted = peft.get_peft_model(getattr(bark, part), config).eval()
    there = peft.get_peft_model(getattr(theirs, part), config).eval()
    state = {name: 3 * tensor for name, tensor in peft.get_peft_model_state_dict(adapted).items()}
    for one in (adapted, there):
        assert not peft.set_peft_model_state_dict(one, state).unexpected_keys
    made, expected = (stage(m, part, 5, given, {}, **options)[0] for m in (bark, theirs))
    assert made.tolist() == expected.tolist()
    assert made.tolist() != plain.tolist()


def test_a_head_that_was_replaced(model):  # noqa: F811
    """Any module in a head's place is asked: the slice of ids that a stage reads is taken of its result."""

    class Turned(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head = head

        def forward(self, x):
            return -self.head(x)

    bark = copy.deepcopy(model)
    with torch.no_grad():
        bark.coarse_acoustics.lm_head.weight.neg_()
    expected = stage(model, "coarse_acoustics", 1, GIVEN["coarse_acoustics"], {})[0]
    assert stage(bark, "coarse_acoustics", 1, GIVEN["coarse_acoustics"], {})[0].tolist() != expected.tolist()
    bark.coarse_acoustics.lm_head = Turned(bark.coarse_acoustics.lm_head)
    assert stage(bark, "coarse_acoustics", 1, GIVEN["coarse_acoustics"], {})[0].tolist() == expected.tolist()
    bark = copy.deepcopy(model)
    bark.semantic.lm_head.register_forward_hook(lambda module, given, made: -made)
    (hooked, _), (plain, _) = (
        stage(m, "semantic", 1, GIVEN["semantic"], {}, max_new_tokens=5) for m in (bark, model)
    )
    assert hooked.tolist() != plain.tolist()


# --- trainers -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_trainer(tmp_path):
    """transformers' Trainer: the loss falls; a checkpoint goes on, and loads there."""
    pytest.importorskip("accelerate")
    from safetensors.torch import load_file

    ours, theirs = pair()
    data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 30, (4, 12)) for _ in range(4)]

    def trainer(trained, steps):
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            learning_rate=1e-2, report_to=[], logging_steps=5, save_steps=10, disable_tqdm=True, use_cpu=True,
            gradient_checkpointing=True, eval_strategy="steps", eval_steps=10,
        )  # fmt: skip
        return transformers.Trainer(trained, arguments, train_dataset=data, eval_dataset=data[:4])

    first = trainer(ours, 20)
    first.train()
    losses = [entry["loss"] for entry in first.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    state = load_file(tmp_path / "checkpoint-20" / "model.safetensors")
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    ids = data[0]["input_ids"][None]
    with torch.no_grad():
        close(theirs(ids).logits, ours.eval()(ids).logits)
    trainer(pair()[0], 25).train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))


def test_loss_of_a_part_of_a_batch():
    """`num_items_in_batch`, with which a Trainer makes several small batches one."""
    ours, _ = pair()
    ids = torch.randint(0, 30, (4, 9))
    whole = ours(ids, labels=ids).loss
    parts = sum(ours(some, labels=some, num_items_in_batch=4 * 8).loss for some in ids.split(1))
    close(parts, whole)


# --- offloading ---------------------------------------------------------------------------------------------


def test_offloaded_stages(directory, model, inputs):  # noqa: F811
    """accelerate's hooks: each weight away while it is not needed; a stage at a time; by a map of places."""
    accelerate = pytest.importorskip("accelerate")
    expected = run(model, 3, **inputs, **SHORT)
    bark = compat.BarkModel.from_pretrained(directory)
    for part in PARTS:
        setattr(bark, part, accelerate.cpu_offload(getattr(bark, part), execution_device="cpu"))
    same_run(run(bark, 3, **inputs, **SHORT), expected)
    assert {p.device.type for p in bark.semantic.parameters()} == {"meta"}  # away again
    assert bark.device == bark.semantic.device == torch.device("cpu")
    bark, hook = compat.BarkModel.from_pretrained(directory), None
    for part in PARTS:
        _, hook = accelerate.cpu_offload_with_hook(getattr(bark, part), "cpu", prev_module_hook=hook)
    same_run(run(bark, 3, **inputs, **SHORT), expected)
    bark = compat.BarkModel.from_pretrained(directory)
    places = {name: "cpu" for name, _ in bark.named_children()}
    same_run(run(accelerate.dispatch_model(bark, places, main_device="cpu"), 3, **inputs, **SHORT), expected)


# --- copies, servers ----------------------------------------------------------------------------------------


def test_copies(model, inputs, tmp_path):  # noqa: F811
    expected = run(model, 3, **inputs, **SHORT)
    torch.save(model, tmp_path / "bark.pt")
    for copied in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "bark.pt", weights_only=False),
    ):
        assert copied.fine_acoustics.lm_heads[0].weight is copied.fine_acoustics.input_embeds_layers[1].weight
        same_run(run(copied, 3, **inputs, **SHORT), expected)


def test_compiled_stages(model):  # noqa: F811
    """A model compiled in place generates, and its forward has no break."""
    bark = copy.deepcopy(model)
    torch._dynamo.reset()
    bark.semantic.compile(backend="eager", fullgraph=True)
    ids = GIVEN["semantic"][:, :9]
    with torch.no_grad():
        close(bark.semantic(ids).logits, model.semantic(ids).logits)
    made, plain = (stage(m, "semantic", 1, GIVEN["semantic"], {}, max_new_tokens=5)[0] for m in (bark, model))
    assert made.tolist() == plain.tolist()


def test_a_server_calls_stage_by_stage(model, oracle, released):  # noqa: F811
    """`model.generate(**processor(text, voice))`, and its stages one by one with the same seed."""
    voice = Voice.load(released / "voices" / "v2" / "en_speaker_6.npz")
    from barklite.text.tokenizer import WordPiece

    given = compat.BarkProcessor(WordPiece(builders.vocabulary()))(TEXT, voice_preset={
        name: tensor.numpy() for name, tensor in history(voice).items()
    })  # fmt: skip
    whole, _, _ = run(model, 2, **given, **SHORT)
    torch.manual_seed(2)
    g, prompt = model.generation_config, given["history_prompt"]
    configs = dict(semantic_generation_config=compat.BarkSemanticGenerationConfig(**g.semantic_config))
    tokens = model.semantic.generate(**given, **configs, max_new_tokens=SHORT["semantic_max_new_tokens"])
    configs["coarse_generation_config"] = compat.BarkCoarseGenerationConfig(**g.coarse_acoustics_config)
    ids = model.coarse_acoustics.generate(tokens, history_prompt=prompt, **configs)
    configs["fine_generation_config"] = compat.BarkFineGenerationConfig(**g.fine_acoustics_config)
    codes = model.fine_acoustics.generate(ids, history_prompt=prompt, **configs)
    assert [tokens.tolist(), ids.tolist(), codes.tolist()] == [part.tolist() for part in whole]


# --- smaller things -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_random_settings(model, oracle, seed):  # noqa: F811
    """A few of those of `python -m tests.compat_long`."""
    compare(seed, model, oracle)


@pytest.mark.parametrize("part", PARTS)
def test_keywords_that_nothing_reads(part):
    ours, _ = pair(part)
    with pytest.warns(UserWarning, match="forward does not read nonsense"):
        ours(*small_args(part), nonsense=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(*small_args(part))


@torch.no_grad()
@pytest.mark.parametrize("T", [1, 3])
def test_caches_of_fixed_size(T):
    """transformers' StaticCache, beside a mask too."""
    ours, _ = pair()
    ids = torch.randint(0, 30, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    for given in ({}, {"attention_mask": mask}):
        expected = ours(ids, **given).logits
        cache, made = transformers.StaticCache(config=small("semantic")[3], max_cache_len=12), []
        for start in range(0, 9, T):
            step = {name: m[:, : start + T] for name, m in given.items()}
            made.append(ours(ids[:, start : start + T], cache=cache, **step).logits)
        visible = mask.cumsum(1) > 0 if given else torch.ones(2, 9, dtype=torch.bool)
        close(torch.cat(made, 1)[visible], expected[visible])


SUBFOLDER = """
import torch
from barklite import compat
model = compat.BarkCoarseModel.from_pretrained("me/bark", subfolder="inner")
config = compat.AutoConfig.from_pretrained("me/bark", subfolder="inner")
voices = dict(speaker_embeddings_dict_path=None)
processor = compat.AutoProcessor.from_pretrained("me/bark", subfolder="inner", **voices)
print(config.semantic_config.hidden_size, model(processor("Hello", max_length=5)["input_ids"]).logits.shape)
"""


def test_a_subfolder_of_a_repository(directory, tmp_path):  # noqa: F811
    """Fetched alone, by a Hub on this machine."""
    hub_folder = tmp_path / "hub"
    shutil.copytree(directory, hub_folder / "inner")
    for file in ("config.json", "pytorch_model.bin"):
        (hub_folder / file).write_text("not this one")
    hub = FakeHub("me/bark", hub_folder)
    environment = dict(os.environ, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"))
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", SUBFOLDER], capture_output=True, text=True, env=environment, timeout=120
        )
    finally:
        hub.close()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["16", "torch.Size([1,", "5,", "12096])"]
    assert not [line for line in hub.log if line.endswith("main/pytorch_model.bin")]


def test_what_moves_entries_moves_outputs():
    """Outputs are dicts and can be made of dicts, as accelerate and data parallelism make them."""
    out = compat.CausalLMOutputWithPast(logits=torch.ones(2), cache=None, loss=torch.zeros(()))
    again = type(out)({name: value + 1 for name, value in out.items()})
    assert isinstance(again, dict)
    assert (again.loss, again.logits.tolist(), again.cache) == (1, [2, 2], None)
    assert pickle.loads(pickle.dumps(again)).logits.tolist() == [2, 2]
    again.loss = torch.tensor(5)
    assert again["loss"] == 5
    with pytest.raises(AttributeError, match="no 'nothing'"):
        _ = again.nothing


def test_an_encoderless_codec_loads_a_state(native):
    """Only what a codec has is loaded into it; an encoder that it lacks is named."""
    bark = compat.BarkModel.from_pretrained(native)
    assert bark.codec_model.encoder is None
    state = {key: tensor.clone() for key, tensor in bark.state_dict().items()}
    before = bark.codec_model.decoder[0].weight.clone()
    name = "codec_model.decoder.layers.0.conv.parametrizations.weight.original0"
    assert tuple(bark.load_state_dict({**state, name: 2 * state[name]})) == ([], [])
    close(bark.codec_model.decoder[0].weight, 2 * before)
    old = name.replace("parametrizations.weight.original0", "weight_g")  # as PyTorch named it before
    bark.load_state_dict({old: 3 * state[name]}, strict=False)
    close(bark.codec_model.decoder[0].weight, 3 * before)
    extra = "codec_model.encoder.layers.0.conv.bias"
    with pytest.raises(RuntimeError, match=r"encoder\.layers\.0\.conv\.bias"):
        bark.load_state_dict({**state, extra: torch.zeros(2)})

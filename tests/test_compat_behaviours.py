"""What transformers' own tests check of its Bark, said anew and run over transformers and `barklite.compat`.

A behaviour is named as the test there is, after the class that it is in. One that transformers itself does
not show is marked `theirs=` with the reason; those that cannot apply are in `NOT_APPLICABLE`, with theirs.
"""

import copy
import inspect
import json
import pickle
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from barklite import compat
from tests import builders

transformers = pytest.importorskip("transformers", reason="the oracle, transformers, is not installed")
generation = pytest.importorskip("transformers.models.bark.generation_configuration_bark")

PARTS = ("semantic", "coarse_acoustics", "fine_acoustics")
CAUSAL = PARTS[:2]
NAMES = {part: name for part, name in zip(PARTS, ("BarkSemantic", "BarkCoarse", "BarkFine"), strict=True)}
B, T, V, D, L, H = 3, 4, 33, 16, 2, 2
SIZES = dict(hidden_size=D, num_layers=L, num_heads=H, window_size=256)
IDS = dict(bos_token_id=V - 1, eos_token_id=V - 1, pad_token_id=V - 1)

NOT_APPLICABLE = {
    "ConfigTester.create_and_test_config_with_num_labels": "no classification",
    "ModelTesterMixin.test_feed_forward_chunking": "no layer is chunked, there neither",
    "ModelTesterMixin.test_resize_position_vector_embeddings": "no method of that kind, there neither",
    "ModelTesterMixin.test_problem_types": "no classification",
    "ModelTesterMixin.test_multi_gpu_data_parallel_forward": "several GPUs",
    "ModelTesterMixin.test_model_parallelism": "several GPUs",
    "ModelTesterMixin.test_model_parallel_beam_search": "several GPUs",
    "ModelTesterMixin.test_tp_plan_matches_params": "no tensor parallelism, there neither",
    "ModelTesterMixin.test_flash_attn_2_inference_equivalence": "a GPU and flash-attn",
    "ModelTesterMixin.test_flash_attn_2_inference_equivalence_right_padding": "the same",
    "ModelTesterMixin.test_flex_attention_with_grads": "no flex attention, there neither",
    "ModelTesterMixin.test_sdpa_can_dispatch_on_flash": "a GPU",
    "ModelTesterMixin.test_sdpa_can_compile_dynamic": "a GPU",
    "ModelTesterMixin.test_keep_in_fp32_modules": "no such list, there neither",
    "ModelTesterMixin.test_can_init_all_missing_weights": "loading is strict: a missing weight is an error",
    "ModelTesterMixin.test_load_with_mismatched_shapes": "loading is strict: a mismatch is an error",
    "ModelTesterMixin.test_can_load_ignoring_mismatched_shapes": "loading is strict: a mismatch is an error",
    "ModelTesterMixin.test_reverse_loading_mapping": "no mapping of names while loading",
    "ModelTesterMixin.test_capture_outputs_decorator": "of transformers' implementation",
    "ModelTesterMixin.test_generation_tester_mixin_inheritance": "of transformers' test files",
    "ModelTesterMixin.test_num_layers_is_small": "of transformers' test files",
    "GenerationTesterMixin.test_assisted_decoding_matches_greedy_search": "refused in words",
    "GenerationTesterMixin.test_assisted_decoding_sample": "refused in words",
    "GenerationTesterMixin.test_prompt_lookup_decoding_matches_greedy_search": "refused in words",
    "GenerationTesterMixin.test_prompt_lookup_decoding_stops_at_eos": "refused in words",
    "GenerationTesterMixin.test_generate_with_quant_cache": "needs quanto or hqq",
    "GenerationTesterMixin.test_generate_methods_with_logits_to_keep": "no logits_to_keep, there neither",
    "GenerationTesterMixin.test_generate_from_inputs_embeds_with_static_cache": "no static cache of its own",
    "GenerationTesterMixin.test_generate_with_static_cache": "generate makes none; forward takes one",
    "GenerationTesterMixin.test_generate_compilation_all_outputs": "generate does not compile by itself",
    "ProcessorTesterMixin.test_image_processor_defaults": "no images",
    "ProcessorTesterMixin.test_video_processor_defaults": "no videos",
    "ProcessorTesterMixin.test_chat_template": "no chat",
    "BarkModelIntegrationTests": "released weights are not at hand",
}

BEHAVIOURS = {}


def behaviour(name: str, parts=PARTS, theirs: str = ""):
    def register(check):
        assert name not in NOT_APPLICABLE
        assert name not in BEHAVIOURS
        BEHAVIOURS[name] = check, parts, theirs
        return check

    return register


class Kit:
    """One of the two libraries, and a small model of a part."""

    def __init__(self, ours: bool, part: str):
        self.ours, self.part, self.lib = ours, part, compat if ours else transformers
        self.generation = compat if ours else generation
        name = NAMES.get(part, "Bark")
        self.Model, self.Config = getattr(self.lib, f"{name}Model"), getattr(self.lib, f"{name}Config")
        self.fine, self.whole = part == "fine_acoustics", part == "whole"

    def config(self, **changes):
        if self.whole:
            parts = {f"{part}_config": Kit(self.ours, part).config().to_dict() for part in PARTS}
            return self.Config(**parts, codec_config=dict(num_filters=2, hidden_size=8, model_type="encodec"))
        return self.Config(**{**SIZES, "vocab_size": V, "output_vocab_size": V, **IDS, **changes})

    def model(self, seed: int = 0, **changes):
        torch.manual_seed(seed)
        model = self.Model(self.config(**changes)).eval()
        if not self.whole:
            generator = torch.Generator().manual_seed(seed)
            for name, parameter in sorted(dict(model.named_parameters()).items()):
                if "norm" not in name:
                    parameter.data.normal_(std=0.3, generator=generator)
        return model

    @property
    def args(self) -> dict:
        ids = torch.randint(
            0, V, (B, T, *([8] if self.fine else [])), generator=torch.Generator().manual_seed(1)
        )
        return {"codebook_idx": 3, "input_ids": ids} if self.fine else {"input_ids": ids}

    def causal(self, seed: int = 0):
        """`BarkCausalModel`, which generates as any language model does."""
        config = self.config()
        config._attn_implementation = config._attn_implementation or "eager"
        torch.manual_seed(seed)
        model = (
            self.lib.models.bark.BarkCausalModel(config)
            if not self.ours
            else self.lib.BarkCausalModel(config)
        )
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in sorted(dict(model.named_parameters()).items()):
            if "norm" not in name:
                parameter.data.normal_(std=0.5, generator=generator)
        return model.eval()


def same(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def cases():
    for name, (_, parts, theirs) in BEHAVIOURS.items():
        for part in parts:
            for ours in (True, False):
                marks = pytest.mark.xfail(reason=theirs, strict=False) if theirs and not ours else ()
                yield pytest.param(
                    name, ours, part, marks=marks, id=f"{name}-{part}-{'ours' if ours else 'theirs'}"
                )


# --- configurations -----------------------------------------------------------------------------------------


@behaviour("ConfigTester.create_and_test_config_common_properties")
def _(kit, tmp_path):
    config = kit.Config(n_embd=37)
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"):
        setattr(config, name, 5)
        assert getattr(config, name) == 5
        assert getattr(kit.Config(**{name: 6 if "heads" not in name else 3}), name) in (6, 3)
    assert config.n_embd == 37


@behaviour("ConfigTester.create_and_test_config_to_json_string")
def _(kit, tmp_path):
    content = json.loads(kit.Config(n_embd=37, hidden_size=24).to_json_string())
    assert (content["n_embd"], content["hidden_size"]) == (37, 24)


@behaviour("ConfigTester.create_and_test_config_to_json_file")
def _(kit, tmp_path):
    config = kit.Config(n_embd=37)
    config.to_json_file(tmp_path / "config.json")
    assert kit.Config.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()


@behaviour("ConfigTester.create_and_test_config_from_and_save_pretrained")
def _(kit, tmp_path):
    config = kit.config()
    config.save_pretrained(tmp_path)
    assert kit.Config.from_pretrained(tmp_path).to_dict() == config.to_dict()
    config.save_pretrained(tmp_path / "inner")
    assert kit.Config.from_pretrained(tmp_path, subfolder="inner").to_dict() == config.to_dict()


@behaviour("ConfigTester.check_config_can_be_init_without_params")
def _(kit, tmp_path):
    assert kit.Config().hidden_size == 768
    assert kit.Config() == kit.Config()


@behaviour("ConfigTester.check_config_arguments_init")
def _(kit, tmp_path):
    given = {
        "return_dict": False,
        "output_hidden_states": True,
        "dtype": "float16",
        "problem_type": "regression",
    }
    config = kit.Config(**given)
    for name, value in given.items():
        assert getattr(config, name) in (value, torch.float16)


@behaviour("BarkConfig.from_sub_model_configs", ("whole",), theirs="gone there")
def _(kit, tmp_path):
    parts = [Kit(kit.ours, part).config() for part in PARTS]
    config = kit.Config.from_sub_model_configs(*parts, kit.lib.EncodecConfig(num_filters=2, hidden_size=8))
    assert config.semantic_config.hidden_size == config.fine_acoustics_config.hidden_size == D
    assert config.codec_config.num_filters == 2
    config.save_pretrained(tmp_path)
    again = kit.Config.from_pretrained(tmp_path)
    assert again.coarse_acoustics_config.to_dict() == config.coarse_acoustics_config.to_dict()


# --- files --------------------------------------------------------------------------------------------------


@behaviour("ModelTesterMixin.test_save_load")
def _(kit, tmp_path):
    model = kit.model()
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    with torch.no_grad():
        same(kit.Model.from_pretrained(tmp_path)(**kit.args).logits, model(**kit.args).logits, 0)


@behaviour("BarkTest.test_save_load_strict")
def _(kit, tmp_path):
    kit.model().save_pretrained(tmp_path)
    _, info = kit.Model.from_pretrained(tmp_path, output_loading_info=True)
    assert {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"} <= info.keys()
    assert not any(info.values())


@behaviour("ModelTesterMixin.test_from_pretrained_no_checkpoint")
def _(kit, tmp_path):
    model = kit.model()
    model.config.save_pretrained(tmp_path)
    again = kit.Model(kit.Config.from_pretrained(tmp_path))
    assert again.state_dict().keys() == model.state_dict().keys()


@behaviour("ModelTesterMixin.test_load_save_without_tied_weights", ("fine_acoustics",))
def _(kit, tmp_path):
    model = kit.model(tie_word_embeddings=False)
    assert model.lm_heads[0].weight is not model.input_embeds_layers[1].weight
    model.save_pretrained(tmp_path)
    again, info = kit.Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    for key, tensor in again.state_dict().items():
        same(tensor, model.state_dict()[key], 0)


@behaviour("ModelTesterMixin.test_model_weights_reload_no_missing_tied_weights", ("fine_acoustics",))
def _(kit, tmp_path):
    from safetensors.torch import load_file

    model = kit.model()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert not any(key.startswith("lm_heads") for key in stored)
    again = kit.Model.from_pretrained(tmp_path)
    assert again.lm_heads[3].weight is again.input_embeds_layers[4].weight


@behaviour("ModelTesterMixin.test_can_use_safetensors")
def _(kit, tmp_path):
    from safetensors.torch import load_file, save_file

    model = kit.model()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {key: 2 * t if t.is_floating_point() else t for key, t in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    again = kit.Model.from_pretrained(tmp_path).state_dict()
    same(again["position_embeds_layer.weight"], 2 * model.state_dict()["position_embeds_layer.weight"], 0)


@behaviour("ModelTesterMixin.test_load_contiguous_weights")
def _(kit, tmp_path):
    kit.model().save_pretrained(tmp_path)
    assert all(p.is_contiguous() for p in kit.Model.from_pretrained(tmp_path).parameters())


@behaviour("ModelTesterMixin.test_bc_torch_dtype")
def _(kit, tmp_path):
    kit.model().half().save_pretrained(tmp_path)
    for given in ("auto", "float16", torch.float16):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models = [
                kit.Model.from_pretrained(tmp_path, **{name: given}) for name in ("dtype", "torch_dtype")
            ]
        assert {model.dtype for model in models} == {torch.float16}


@behaviour("ModelTesterMixin.test_torch_save_load")
def _(kit, tmp_path):
    model = kit.model()
    torch.save(model.state_dict(), tmp_path / "state.bin")
    other = kit.model(seed=5)
    other.load_state_dict(torch.load(tmp_path / "state.bin"))
    with torch.no_grad():
        same(other(**kit.args).logits, model(**kit.args).logits, 0)
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    for copied in (again, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        with torch.no_grad():
            same(copied(**kit.args).logits, model(**kit.args).logits, 0)


@behaviour("ModelTesterMixin.test_save_load_keys_to_ignore_on_save")
def _(kit, tmp_path):
    model = kit.model()
    parent = nn.Module()
    parent.inner = nn.Sequential(model)
    state = {key: 2.0 * t if t.is_floating_point() else t for key, t in parent.state_dict().items()}
    assert all(key.startswith("inner.0.") for key in state)
    parent.load_state_dict(state)  # a parent loads its children itself
    same(model.position_embeds_layer.weight, state["inner.0.position_embeds_layer.weight"], 0)


@behaviour("ModelTesterMixin.test_can_be_initialized_on_meta", (*PARTS, "whole"))
def _(kit, tmp_path):
    with torch.device("meta"):
        model = kit.Model(kit.config())
    assert {p.device.type for p in model.parameters()} == {"meta"}


@behaviour("ModelTesterMixin.test_can_load_with_meta_device_context", theirs="refused there")
def _(kit, tmp_path):
    kit.model().save_pretrained(tmp_path)
    with torch.device("meta"):
        model = kit.Model.from_pretrained(tmp_path)
    assert {p.device.type for p in model.parameters()} <= {"meta", "cpu"}


@behaviour("ModelTesterMixin.test_cpu_offload", theirs="positions go to the device of a weight that is away")
def _(kit, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = kit.model()
    expected = model(**kit.args).logits
    moved = accelerate.cpu_offload(copy.deepcopy(model), execution_device="cpu")
    assert {p.device.type for p in moved.parameters()} == {"meta"}
    with torch.no_grad():
        same(moved(**kit.args).logits, expected)


@behaviour("ModelTesterMixin.test_disk_offload_safetensors")
def _(kit, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = kit.model()
    places = {name: "disk" if name == "layers" else "cpu" for name, _ in model.named_children()}
    moved = accelerate.dispatch_model(copy.deepcopy(model), places, main_device="cpu", offload_dir=tmp_path)
    with torch.no_grad():
        same(moved(**kit.args).logits, model(**kit.args).logits)


# --- weights and modules ------------------------------------------------------------------------------------


@behaviour("ModelTesterMixin.test_initialization", (*PARTS, "whole"))
def _(kit, tmp_path):
    torch.manual_seed(0)
    for name, parameter in kit.Model(kit.config()).named_parameters():
        if "norm" in name and "weight_norm" not in name and not name.startswith("codec"):
            assert set(parameter.flatten().tolist()) <= {0.0, 1.0}, name
        assert parameter.isfinite().all()


@behaviour("ModelTesterMixin.test_all_tensors_are_parameter_or_buffer")
def _(kit, tmp_path):
    model = kit.model()
    known = {id(t) for t in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        assert not [
            n
            for n, value in vars(module).items()
            if isinstance(value, torch.Tensor) and id(value) not in known
        ]


@behaviour("ModelTesterMixin.test_tied_weights_keys", ("fine_acoustics",))
def _(kit, tmp_path):
    model = kit.model()
    for i in range(7):
        assert model.lm_heads[i].weight is model.input_embeds_layers[i + 1].weight
    assert {f"lm_heads.{i}.weight" for i in range(7)} <= model.state_dict().keys()


@behaviour("ModelTesterMixin.test_tie_model_weights", ("fine_acoustics",))
def _(kit, tmp_path):
    model = kit.model()
    model.lm_heads[2].weight = nn.Parameter(torch.ones(V, D))
    model.tie_weights()
    assert model.lm_heads[2].weight is model.input_embeds_layers[3].weight
    n = len(list(model.parameters()))
    model.resize_token_embeddings(V + 10)
    assert len(list(model.parameters())) == n


@behaviour("ModelTesterMixin.test_correct_missing_keys")
def _(kit, tmp_path):
    model = kit.model()
    state = {k: t for k, t in model.state_dict().items() if k != "layers.0.attn.att_proj.weight"}
    assert "layers.0.attn.att_proj.weight" in model.load_state_dict(state, strict=False).missing_keys
    with pytest.raises(RuntimeError, match="att_proj"):
        model.load_state_dict(state)


@behaviour("ModelTesterMixin.test_model_base_model_prefix")
def _(kit, tmp_path):
    assert kit.Model.base_model_prefix == kit.part
    model = kit.model()
    assert model.base_model is model


@behaviour("ModelTesterMixin.test_model_main_input_name")
def _(kit, tmp_path):
    assert kit.Model.main_input_name == [*inspect.signature(kit.Model.forward).parameters][1]


@behaviour("ModelTesterMixin.test_forward_signature")
def _(kit, tmp_path):
    names = [*inspect.signature(kit.Model.forward).parameters][1:]
    assert names[: 2 if kit.fine else 1] == (["codebook_idx", "input_ids"] if kit.fine else ["input_ids"])


@behaviour("ModelTesterMixin.test_config_attn_implementation_setter")
def _(kit, tmp_path):
    model = kit.model()
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"


@behaviour("ModelTesterMixin.test_internal_model_config_and_subconfig_are_same", ("whole",))
def _(kit, tmp_path):
    model = kit.model()
    assert model.semantic.config is model.config.semantic_config
    assert model.fine_acoustics.config is model.config.fine_acoustics_config


@behaviour("module tree", (*PARTS, "whole"))
def _(kit, tmp_path):
    model = kit.model()
    expected = {
        name for name, _ in Kit(False, kit.part).model().named_modules() if not name.startswith("codec")
    }
    drops = {
        name
        for name in expected
        if name.rpartition(".")[2] in ("drop", "dropout", "gelu", "attn_dropout", "resid_dropout")
    }
    names = {name for name, _ in model.named_modules() if not name.startswith("codec")}
    assert expected - drops == names - drops
    if kit.whole:
        assert model.codec_model.decoder is not None
        assert model.semantic.layers[1].attn.att_proj.out_features == 3 * D
        codes = torch.zeros(8, 1, 5, dtype=torch.long)
        with torch.no_grad():
            assert model.codec_model.decoder(model.codec_model.quantizer.decode(codes)).shape == (1, 1, 1600)
    else:
        parameters = {name: tuple(p.shape) for name, p in model.named_parameters()}
        assert parameters == {
            name: tuple(p.shape) for name, p in Kit(False, kit.part).model().named_parameters()
        }


@behaviour("PreTrainedModel.get_memory_footprint")
def _(kit, tmp_path):
    model = kit.model()
    parameters = sum(p.nbytes for p in model.parameters())
    assert model.get_memory_footprint(return_buffers=False) == parameters
    assert model.get_memory_footprint() >= parameters
    assert model.half().get_memory_footprint(return_buffers=False) == parameters // 2


@behaviour("BarkModelIntegrationTests.test_model_can_generate", (*PARTS, "whole"))
def _(kit, tmp_path):
    assert kit.Model.can_generate() is (not kit.fine)


# --- embeddings ---------------------------------------------------------------------------------------------


@behaviour("ModelTesterMixin.test_model_get_set_embeddings")
def _(kit, tmp_path):
    model = kit.model()
    if kit.fine:
        assert isinstance(model.get_input_embeddings()[0], nn.Embedding)
        model.set_input_embeddings(nn.ModuleList(nn.Embedding(10, 10) for _ in range(8)))
        assert isinstance(model.get_output_embeddings()[0], nn.Linear)
        assert model.get_input_embeddings()[0].weight.shape == (10, 10)
    else:
        assert isinstance(model.get_input_embeddings(), nn.Embedding)
        new = nn.Embedding(10, 10)
        model.set_input_embeddings(new)
        assert model.get_input_embeddings() is new
        assert model.get_output_embeddings() is None


@behaviour("ModelTesterMixin.test_resize_tokens_embeddings")
def _(kit, tmp_path):
    for n in (V + 10, V - 15):
        model, args = kit.model(), kit.args
        before = {name: t.clone() for name, t in model.state_dict().items() if "input_embeds" in name}
        tables = model.resize_token_embeddings(n)
        assert model.config.vocab_size == n
        for table in tables if kit.fine else [tables]:
            assert table.weight.shape[0] == n
        for name, old in before.items():
            same(model.state_dict()[name][: min(n, V)], old[:n], 0)
        args["input_ids"] = args["input_ids"].clamp(max=n - 1)
        assert model(**args).logits.shape[-1] == (n if kit.fine else V)


@behaviour("ModelTesterMixin.test_resize_embeddings_untied", ("fine_acoustics",))
def _(kit, tmp_path):
    for n in (V + 10, V - 15):
        model, args = kit.model(tie_word_embeddings=False), kit.args
        model.resize_token_embeddings(n)
        assert {head.weight.shape[0] for head in model.get_output_embeddings()} == {n}
        args["input_ids"] = args["input_ids"].clamp(max=n - 1)
        assert model(**args).logits.shape[-1] == n


# --- forward ------------------------------------------------------------------------------------------------


@behaviour("ModelTesterMixin.test_determinism")
@torch.no_grad()
def _(kit, tmp_path):
    model = kit.model(dropout=0.1)
    same(model(**kit.args).logits, model(**kit.args).logits, 0)


@behaviour("ModelTesterMixin.test_batching_equivalence")
@torch.no_grad()
def _(kit, tmp_path):
    model, args = kit.model(), kit.args
    whole = model(**args).logits
    for i in range(B):
        alone = {**args, "input_ids": args["input_ids"][i : i + 1]}
        same(model(**alone).logits[0], whole[i])


@behaviour("ModelTesterMixin.test_attention_outputs")
@torch.no_grad()
def _(kit, tmp_path):
    model = kit.model()
    out = model(**kit.args, output_attentions=True)
    assert len(out.attentions) == L
    assert out.attentions[0].shape == (B, H, T, T)
    same(out.attentions[0].sum(-1), torch.ones(B, H, T))
    config = kit.config(output_attentions=True)
    config._attn_implementation = "eager"
    assert len(kit.Model(config)(**kit.args).attentions) == L


@behaviour("ModelTesterMixin.test_hidden_states_output")
@torch.no_grad()
def _(kit, tmp_path):
    out = kit.model()(**kit.args, output_hidden_states=True)
    assert [h.shape for h in out.hidden_states] == [(B, T, D)] * (L + 1)
    assert kit.model(output_hidden_states=True)(**kit.args).hidden_states is not None


@behaviour("ModelTesterMixin.test_retain_grad_hidden_states_attentions")
def _(kit, tmp_path):
    out = kit.model()(**kit.args, output_hidden_states=True, output_attentions=True)
    kept = (out.hidden_states[0], out.attentions[0])
    for tensor in kept:
        tensor.retain_grad()
    out[0].flatten()[0].backward()
    assert all(tensor.grad is not None for tensor in kept)


@behaviour("ModelTesterMixin.test_model_outputs_equivalence")
@torch.no_grad()
def _(kit, tmp_path):
    model = kit.model()
    for reports in (
        {},
        dict(output_hidden_states=True),
        dict(output_hidden_states=True, output_attentions=True),
    ):
        named, plain = model(**kit.args, **reports), model(**kit.args, **reports, return_dict=False)
        assert isinstance(plain, tuple)
        assert len(plain) == len(named.to_tuple())
        same(plain[0], named.logits, 0)
        same(named["logits"], named[0], 0)


@behaviour("ModelTesterMixin.test_model_forward_default_config_values")
@torch.no_grad()
def _(kit, tmp_path):
    out = kit.model(return_dict=False)(**kit.args)
    assert isinstance(out, tuple)


@behaviour("ModelTesterMixin.test_inputs_embeds")
@torch.no_grad()
def _(kit, tmp_path):
    model, args = kit.model(), kit.args
    table = model.get_input_embeddings()
    ids = args.pop("input_ids")
    embeds = table[args["codebook_idx"]](ids[..., 3]) if kit.fine else table(ids)
    assert model(**args, inputs_embeds=embeds)[0].shape == (B, T, V)
    with pytest.raises(ValueError, match="both"):
        model(**args, input_ids=ids, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="input_ids or"):
        model(**args)


@behaviour("ModelTesterMixin.test_inputs_embeds_matches_input_ids", CAUSAL)
@torch.no_grad()
def _(kit, tmp_path):
    model, args = kit.model(), kit.args
    embeds = model.get_input_embeddings()(args["input_ids"])
    same(model(inputs_embeds=embeds).logits, model(**args).logits, 0)


@behaviour("BarkTest.test_inputs_embeds", theirs="`input_embeds` is gone there")
@torch.no_grad()
def _(kit, tmp_path):
    model, args = kit.model(), kit.args
    embeds = torch.randn(B, T, D)
    args.pop("input_ids")
    same(model(**args, input_embeds=embeds).logits, model(**args, inputs_embeds=embeds).logits, 0)


@behaviour("BarkTest.test_decoder_model_past_with_large_inputs", CAUSAL)
@torch.no_grad()
def _(kit, tmp_path):
    model, ids = kit.model(), torch.randint(0, V, (B, 9))
    first = model(ids[:, :6], use_cache=True)
    logits, cache = first.to_tuple()
    assert logits.shape == (B, 6, V)
    for n in (1, 2):
        step = model(ids[:, 6 : 6 + n], past_key_values=cache)
        same(step.logits, model(ids[:, : 6 + n]).logits[:, 6:])
        cache = model(ids[:, :6]).past_key_values
    mask = torch.ones(B, 9, dtype=torch.long)
    mask[0, :2] = 0
    masked = model(ids, attention_mask=mask).logits
    cache = model(ids[:, :6], attention_mask=mask[:, :6]).past_key_values
    same(model(ids[:, 6:7], attention_mask=mask[:, :7], past_key_values=cache).logits, masked[:, 6:7], 1e-3)


@behaviour("ModelTesterMixin.test_custom_4d_attention_mask", CAUSAL)
@torch.no_grad()
def _(kit, tmp_path):
    model, ids = kit.model(), kit.args["input_ids"]
    mask = torch.zeros(B, 1, T, T)
    mask[1, :, :, 0] = torch.finfo(torch.float32).min
    two = torch.ones(B, T)
    two[1, 0] = 0
    same(model(ids, attention_mask=mask).logits[:, 1:], model(ids, attention_mask=two.long()).logits[:, 1:])


@behaviour("ModelTesterMixin.test_causal_lm_can_accept_kwargs", CAUSAL)
@torch.no_grad()
def _(kit, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert kit.model()(**kit.args, nonsense=3).logits.shape == (B, T, V)


@behaviour("ModelTesterMixin.test_eager_matches_sdpa_inference")
@torch.no_grad()
def _(kit, tmp_path):
    outs = []
    for name in ("eager", "sdpa"):
        model = kit.model()
        model.set_attn_implementation(name)
        outs.append(model(**kit.args).logits)
    same(*outs)


@behaviour("ModelTesterMixin.test_can_set_attention_dynamically")
@torch.no_grad()
def _(kit, tmp_path):
    model = kit.model()
    before = model(**kit.args).logits
    model.set_attn_implementation("eager")
    same(model(**kit.args).logits, before)


@behaviour("ModelTesterMixin.test_torch_compile_for_training")
def _(kit, tmp_path):
    model, args = kit.model(), kit.args
    if not kit.fine:
        args["use_cache"] = False
    model(**args).logits.square().mean().backward()
    expected = model.position_embeds_layer.weight.grad.clone()
    model.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(**args).logits.square().mean().backward()
    same(model.position_embeds_layer.weight.grad, expected)


@behaviour("GenerationTesterMixin.test_generate_compile_model_forward_fullgraph", CAUSAL)
@torch.no_grad()
def _(kit, tmp_path):
    model, ids = kit.model(), torch.randint(0, V, (B, 9))
    expected = model(ids).logits
    for cache in (None, transformers.StaticCache(config=Kit(False, kit.part).config(), max_cache_len=12)):
        if cache is not None and not kit.ours:
            continue  # Bark's own causal mask does not fit a cache of fixed size
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        first = compiled(ids[:, :5], **({} if cache is None else {"cache": cache}))
        step = compiled(ids[:, 5:6], past_key_values=first.past_key_values)
        same(step.logits, expected[:, 5:6])


# --- training -----------------------------------------------------------------------------------------------


@behaviour("ModelTesterMixin.test_training", theirs="`labels` are not implemented there")
def _(kit, tmp_path):
    model = kit.model().train()
    loss = model(**kit.args, labels=torch.randint(0, V, (B, T))).loss
    loss.backward()
    assert loss > 0
    grads = {n for n, p in model.named_parameters() if p.grad is not None}
    assert {"position_embeds_layer.weight", "layers.0.attn.att_proj.weight"} <= grads


@behaviour(
    "ModelTesterMixin.test_gradient_checkpointing_enable_disable", theirs="Bark does not support it there"
)
def _(kit, tmp_path):
    model = kit.model()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@behaviour("ModelTesterMixin.test_training_gradient_checkpointing", theirs="Bark does not support it there")
def _(kit, tmp_path):
    labels = torch.randint(0, V, (B, T))
    for reentrant in (True, False):
        model = kit.model().train()
        plain, gradients = kept_and_gradients(model, **kit.args, labels=labels)
        model.zero_grad()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        less, again = kept_and_gradients(model, **kit.args, labels=labels)
        assert less < plain / 2
        assert gradients.keys() == again.keys()
        for name, gradient in gradients.items():
            same(again[name], gradient)


def kept_and_gradients(model, **given):
    """Elements that a forward keeps for its gradients, and the gradients."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = model(**given).loss
    loss.backward()
    return sum(kept), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@behaviour(
    "ModelTesterMixin.test_peft_gradient_checkpointing_enable_disable",
    theirs="Bark does not support it there",
)
def _(kit, tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(kit.model(), peft.LoraConfig(target_modules=["att_proj"]))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    model.train()
    model(**kit.args, labels=torch.randint(0, V, (B, T))).loss.backward()
    assert any(p.grad is not None for n, p in model.named_parameters() if "lora_B" in n)


# --- generation ---------------------------------------------------------------------------------------------


def prompt():
    return torch.randint(0, V - 1, (2, 3), generator=torch.Generator().manual_seed(2))


@behaviour("GenerationTesterMixin.test_greedy_generate", CAUSAL[:1])
def _(kit, tmp_path):
    made = kit.causal().generate(prompt(), do_sample=False, max_new_tokens=6)
    assert made[:, :3].tolist() == prompt().tolist()
    assert made.shape == (2, 9)
    assert kit.causal().generate(prompt(), do_sample=False, max_length=7).shape == (2, 7)


@behaviour("GenerationTesterMixin.test_greedy_generate_dict_outputs", CAUSAL[:1])
def _(kit, tmp_path):
    out = kit.causal().generate(
        prompt(), do_sample=False, max_new_tokens=4, return_dict_in_generate=True, output_scores=True,
        output_logits=True, output_hidden_states=True, output_attentions=True, use_cache=False,
    )  # fmt: skip
    assert out.sequences.shape == (2, 7)
    assert [s.shape for s in out.scores] == [s.shape for s in out.logits] == [(2, V)] * 4
    assert [len(h) for h in out.hidden_states] == [L + 1] * 4
    assert [h[0].shape for h in out.hidden_states] == [(2, n, D) for n in range(3, 7)]
    assert [a[0].shape for a in out.attentions] == [(2, H, n, n) for n in range(3, 7)]


@behaviour("GenerationTesterMixin.test_greedy_generate_dict_outputs_use_cache", CAUSAL[:1])
def _(kit, tmp_path):
    given = dict(do_sample=False, max_new_tokens=4, return_dict_in_generate=True, output_hidden_states=True)
    out = kit.causal().generate(prompt(), **given, output_attentions=True, use_cache=True)
    assert [h[0].shape for h in out.hidden_states] == [(2, n, D) for n in (3, 1, 1, 1)]
    assert [a[0].shape for a in out.attentions] == [(2, H, q, k) for q, k in ((3, 3), (1, 4), (1, 5), (1, 6))]
    assert out.past_key_values.get_seq_length() == 6
    assert (
        out.sequences.tolist() == kit.causal().generate(prompt(), do_sample=False, max_new_tokens=4).tolist()
    )


@behaviour("GenerationTesterMixin.test_past_key_values_format", CAUSAL)
@torch.no_grad()
def _(kit, tmp_path):
    cache = kit.model()(**kit.args).past_key_values
    assert len(cache.layers) == L
    assert cache.layers[1].keys.shape == cache.layers[1].values.shape == (B, H, T, D // H)


@behaviour("GenerationTesterMixin.test_sample_generate", CAUSAL[:1])
def _(kit, tmp_path):
    torch.manual_seed(0)
    given = dict(do_sample=True, max_new_tokens=5, top_k=10, top_p=0.7, temperature=0.7)
    made = kit.causal().generate(prompt(), **given, num_return_sequences=2)
    assert made.shape[0] == 4
    assert made[0, :3].tolist() == made[1, :3].tolist()
    torch.manual_seed(0)
    assert torch.equal(kit.causal().generate(prompt(), **given, num_return_sequences=2), made)


@behaviour("GenerationTesterMixin.test_sample_generate_dict_output", CAUSAL[:1])
def _(kit, tmp_path):
    out = kit.causal().generate(
        prompt(), do_sample=True, max_new_tokens=4, num_return_sequences=2, return_dict_in_generate=True,
        output_scores=True, top_k=5,
    )  # fmt: skip
    assert out.scores[0].shape == (4, V)
    assert (out.scores[0] > -torch.inf).sum(-1).tolist() == [5] * 4


@behaviour("GenerationTesterMixin.test_beam_search_generate", CAUSAL[:1])
def _(kit, tmp_path):
    given = dict(num_beams=3, do_sample=False, max_new_tokens=5)
    made = kit.causal().generate(prompt(), **given, num_return_sequences=2)
    assert made.shape[0] == 4
    assert made.shape[1] <= 8
    with pytest.raises(ValueError, match="num_return_sequences"):
        kit.causal().generate(prompt(), **given, num_return_sequences=4)


@behaviour("GenerationTesterMixin.test_beam_search_generate_dict_output", CAUSAL[:1])
def _(kit, tmp_path):
    out = kit.causal().generate(
        prompt(),
        num_beams=3,
        do_sample=False,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert out.sequences_scores.shape == (2,)
    assert out.scores[0].shape == (6, V)


@behaviour("GenerationTesterMixin.test_beam_search_generate_dict_outputs_use_cache", CAUSAL[:1])
def _(kit, tmp_path):
    runs = [
        kit.causal().generate(prompt(), num_beams=3, do_sample=False, max_new_tokens=6, use_cache=use)
        for use in (True, False)
    ]
    assert torch.equal(*runs)


@behaviour("GenerationTesterMixin.test_beam_sample_generate", CAUSAL[:1])
def _(kit, tmp_path):
    torch.manual_seed(1)
    made = kit.causal().generate(
        prompt(), num_beams=2, do_sample=True, max_new_tokens=5, num_return_sequences=2
    )
    assert made.shape[0] == 4
    assert int(made.max()) < V


@behaviour("GenerationTesterMixin.test_beam_sample_generate_dict_output", CAUSAL[:1])
def _(kit, tmp_path):
    out = kit.causal().generate(
        prompt(),
        num_beams=2,
        do_sample=True,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert out.sequences_scores.shape == (2,)


@behaviour("GenerationTesterMixin.test_generate_without_input_ids", CAUSAL[:1])
def _(kit, tmp_path):
    made = kit.causal().generate(max_new_tokens=5, do_sample=False)
    assert made.shape[0] == 1
    assert made[0, 0] == V - 1


@behaviour("GenerationTesterMixin.test_generate_from_inputs_embeds", CAUSAL[:1])
def _(kit, tmp_path):
    model = kit.causal()
    embeds = model.get_input_embeddings()(prompt())
    expected = model.generate(prompt(), do_sample=False, max_new_tokens=5)[:, 3:]
    made = model.generate(inputs_embeds=embeds, do_sample=False, max_new_tokens=5)
    assert made.tolist() == expected.tolist()


@behaviour("GenerationTesterMixin.test_generate_continue_from_past_key_values", CAUSAL[:1])
def _(kit, tmp_path):
    model = kit.causal()
    given = dict(do_sample=False, return_dict_in_generate=True)
    whole = model.generate(prompt(), **given, max_new_tokens=6)
    first = model.generate(prompt(), **given, max_new_tokens=3)
    rest = model.generate(first.sequences, **given, past_key_values=first.past_key_values, max_new_tokens=3)
    assert rest.sequences.tolist() == whole.sequences.tolist()


@behaviour("GenerationTesterMixin.test_left_padding_compatibility", CAUSAL[:1])
def _(kit, tmp_path):
    model, ids = kit.causal(), prompt()
    padded = torch.cat((torch.full((2, 4), 5), ids), 1)
    mask = torch.cat((torch.zeros(2, 4), torch.ones(2, 3)), 1).long()
    expected = model.generate(ids, do_sample=False, max_new_tokens=5)[:, 3:]
    made = model.generate(padded, attention_mask=mask, do_sample=False, max_new_tokens=5)[:, 7:]
    assert made.tolist() == expected.tolist()


@behaviour("GenerationTesterMixin.test_inherits_generation_mixin", CAUSAL)
def _(kit, tmp_path):
    model = kit.model()
    for name in ("generate", "prepare_inputs_for_generation", "can_generate"):
        assert callable(getattr(model, name))
    assert model.generation_config.eos_token_id == V - 1


@behaviour("GenerationTesterMixin.test_prepare_inputs_for_generation_kwargs_forwards", CAUSAL)
def _(kit, tmp_path):
    given = kit.model().prepare_inputs_for_generation(
        prompt(), attention_mask=torch.ones(2, 3), use_cache=True
    )
    assert given["input_ids"].tolist() == prompt().tolist()
    assert given["use_cache"] is True


@behaviour("BarkTest.test_generate_fp16", PARTS)
def _(kit, tmp_path):
    if not kit.fine:
        model, ids = kit.causal().half(), kit.args["input_ids"]
        assert model.generate(ids, attention_mask=ids.ne(1).long()).shape[1] > T
        made = model.generate(num_beams=4, do_sample=True, early_stopping=False, num_return_sequences=3)
        assert made.shape[0] == 3
        return
    model, g = kit.model().half(), kit.generation
    configs = dict(
        semantic_generation_config=g.BarkSemanticGenerationConfig(semantic_vocab_size=0),
        coarse_generation_config=g.BarkCoarseGenerationConfig(n_coarse_codebooks=1),
        fine_generation_config=g.BarkFineGenerationConfig(
            max_fine_history_length=128, max_fine_input_length=256, n_fine_codebooks=8
        ),
    )
    for temperature in (None, 0.7):
        made = model.generate(kit.args["input_ids"], temperature=temperature, codebook_size=V - 1, **configs)
        assert made.shape == (B, 8, 8 * T)


# --- the processor ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    (path / "vocab.txt").write_text("\n".join(builders.vocabulary()) + "\n", encoding="utf-8")
    from barklite.compat.tokenizing import CONFIG

    (path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    return path


def both(checkpoint):
    return [
        SimpleNamespace(lib=lib, tokenizer=lib.AutoTokenizer.from_pretrained(checkpoint))
        for lib in (compat, transformers)
    ]


TEXTS = ["Hello world, hell [laughs]! don't", "world", " a . b ? ♪ — [SEP] ##ing", ""]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", [*TEXTS, TEXTS])
def test_tokenizers_agree(checkpoint, text, special):
    """BarkProcessorTest.test_tokenizer, ProcessorTesterMixin.test_tokenizer_defaults."""
    ours, theirs = (side.tokenizer for side in both(checkpoint))
    for given in (
        {},
        dict(padding=True),
        dict(padding="max_length", max_length=40),
        dict(padding="longest", truncation=True, max_length=6, return_tensors="pt"),
        dict(padding="max_length", max_length=40, return_tensors="np", return_token_type_ids=False),
        dict(padding=True, padding_side="left", return_attention_mask=False),
    ):
        one, other = (t(text, add_special_tokens=special, **given) for t in (ours, theirs))
        assert one.keys() == other.keys()
        for name in other.keys():  # noqa: SIM118
            assert type(one[name]) is type(other[name])
            assert (
                getattr(one[name], "tolist", lambda x=one[name]: x)()
                == getattr(other[name], "tolist", lambda x=other[name]: x)()
            )


def test_tokenizers_decode_alike(checkpoint):
    """ProcessorTesterMixin.test_tokenizer_decode_defaults."""
    (a, b), lists = both(checkpoint), []
    ours, theirs = a.tokenizer, b.tokenizer
    for text in TEXTS:
        ids = theirs(text).input_ids
        lists.append(ids)
        assert ours.encode(text) == theirs.encode(text) == ids
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
        for skip in (True, False):
            for given in (ids, torch.tensor(ids)):
                assert ours.decode(given, skip_special_tokens=skip) == theirs.decode(
                    given, skip_special_tokens=skip
                )
    assert ours.batch_decode(lists) == theirs.batch_decode(lists)
    assert compat.BarkProcessor(ours).batch_decode(lists) == theirs.batch_decode(lists)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.convert_tokens_to_ids(["Hello", "zzz"]) == theirs.convert_tokens_to_ids(["Hello", "zzz"])
    assert set(ours.all_special_ids) == set(theirs.all_special_ids)
    for name in (
        "pad_token",
        "pad_token_id",
        "cls_token_id",
        "unk_token",
        "vocab_size",
        "model_max_length",
        "padding_side",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs)


def test_processors_save_and_load(checkpoint, tmp_path):
    """BarkProcessorTest.test_save_load_pretrained_default, and each loads what the other saved."""
    for i, side in enumerate(both(checkpoint)):
        processor = side.lib.BarkProcessor(tokenizer=side.tokenizer)
        processor.save_pretrained(tmp_path / str(i))
        for lib in (compat, transformers):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                again = lib.BarkProcessor.from_pretrained(tmp_path / str(i))
            assert again.tokenizer.get_vocab() == side.tokenizer.get_vocab()
            encoded = side.tokenizer("Hello", padding="max_length", max_length=256, add_special_tokens=False)
            assert again("Hello")["input_ids"][0].tolist() == encoded["input_ids"]


def test_other_tokenizers_say_what_they_lack():
    from barklite.text.tokenizer import Bytes

    tokenizer = compat.BarkTokenizer(Bytes())
    ids = tokenizer("Grüße", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == "Grüße"
    assert tokenizer.all_special_ids == []
    for call in (tokenizer.get_vocab, lambda: tokenizer("a"), lambda: tokenizer.tokenize("a")):
        with pytest.raises(ValueError, match="Bytes has no"):
            call()
    with pytest.raises(TypeError, match="does not know nonsense"):
        tokenizer("a", nonsense=1)


# --- run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ours", "part"), [*cases()])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_behaviour(name, ours, part, tmp_path):
    BEHAVIOURS[name][0](Kit(ours, part), tmp_path)


# Settings of `BarkCausalModel.generate` with which both make the same ids.
GENERATIONS = {
    "greedy": dict(do_sample=False),
    "sampled": dict(do_sample=True, top_k=7, top_p=0.8, temperature=0.8),
    "rows of a text": dict(do_sample=True, num_return_sequences=3),
    "at least": dict(do_sample=False, min_new_tokens=9),
    "ends": dict(do_sample=True, eos_token_id=[*range(1, V, 4)], pad_token_id=0),
    "beams": dict(num_beams=4, do_sample=False),
    "beams, several": dict(num_beams=4, num_return_sequences=3, do_sample=False, early_stopping=True),
    "beams, long": dict(num_beams=3, do_sample=False, length_penalty=2.0, early_stopping="never"),
    "beams, short": dict(
        num_beams=3, do_sample=False, length_penalty=-1.0, eos_token_id=[4, 7, 9], pad_token_id=0
    ),
    "beams, sampled": dict(num_beams=3, do_sample=True, num_return_sequences=2, top_k=9, temperature=0.9),
    "from the beginning": dict(do_sample=True, inputs=None),
}


@pytest.mark.parametrize("case", GENERATIONS)
@pytest.mark.parametrize("seed", range(4))
def test_generation_is_the_same(case, seed):
    given = {"inputs": prompt(), "max_new_tokens": 12, **GENERATIONS[case]}
    made = []
    for ours in (True, False):
        model = Kit(ours, "semantic").causal(seed)
        torch.manual_seed(seed)
        out = model.generate(**given, return_dict_in_generate=True, output_scores=True)
        made.append((out.sequences, out.scores, getattr(out, "sequences_scores", None)))
    (ours, scores, best), (theirs, expected, other) = made
    assert ours.tolist() == theirs.tolist()
    if case == "ends" and seed == 0:
        assert (ours[:, -1] == 0).any()
        assert not (ours[:, -1] == 0).all()  # one row ended before the other
    for one, two in zip(scores, expected, strict=True):
        same(one, two, 1e-4)
    if other is not None:
        same(best, other, 1e-4)

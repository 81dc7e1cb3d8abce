# ruff: noqa: E501 (they are as long as they are)
"""The examples on transformers' page about Bark, as they stand there but for the import line.

Each is a test. They run one after another in one process, as a reader would type them, with suno/bark and
suno/bark-small served, tiny, from a directory in the Hub cache's layout. Where versions of the page differ,
both are here.
"""

import json
import os
import subprocess
import sys

import pytest
import scipy.io.wavfile

from tests import builders

EXAMPLES = {
    "half precision": '''
from transformers import BarkModel, infer_device
import torch

device = infer_device()
model = BarkModel.from_pretrained("suno/bark-small", dtype=torch.float16).to(device)
''',
    "half precision, older": '''
from transformers import BarkModel
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
model = BarkModel.from_pretrained("suno/bark-small", torch_dtype=torch.float16).to(device)
''',
    "half precision, newer": '''
from transformers import BarkModel
from accelerate import Accelerator
import torch

device = Accelerator().device
model = BarkModel.from_pretrained("suno/bark-small", dtype=torch.float16).to(device)
''',
    "offload": '''
model.enable_cpu_offload()
''',
    "better transformer": '''
model =  model.to_bettertransformer()
''',
    "flash attention": '''
model = BarkModel.from_pretrained("suno/bark-small", dtype=torch.float16, attn_implementation="flash_attention_2").to(device)
''',
    "combined": '''
from transformers import BarkModel, infer_device
import torch

device = infer_device()

# load in fp16 and use Flash Attention 2
model = BarkModel.from_pretrained("suno/bark-small", dtype=torch.float16, attn_implementation="flash_attention_2").to(device)

# enable CPU offload
model.enable_cpu_offload()
''',
    "speech": '''
>>> from transformers import AutoProcessor, BarkModel

>>> processor = AutoProcessor.from_pretrained("suno/bark")
>>> model = BarkModel.from_pretrained("suno/bark")

>>> voice_preset = "v2/en_speaker_6"

>>> inputs = processor("Hello, my dog is cute", voice_preset=voice_preset)

>>> audio_array = model.generate(**inputs)
>>> audio_array = audio_array.cpu().numpy().squeeze()
''',
    "languages and music": '''
>>> # Multilingual speech - simplified Chinese
>>> inputs = processor("惊人的！我会说中文")

>>> # Multilingual speech - French - let's use a voice_preset as well
>>> inputs = processor("Incroyable! Je peux générer du son.", voice_preset="fr_speaker_5")

>>> # Bark can also generate music. You can help it out by adding music notes around your lyrics.
>>> inputs = processor("♪ Hello, my dog is cute ♪")

>>> audio_array = model.generate(**inputs)
>>> audio_array = audio_array.cpu().numpy().squeeze()
''',
    "cues": '''
>>> # Adding non-speech cues to the input text
>>> inputs = processor("Hello uh ... [clears throat], my dog is cute [laughter]")

>>> audio_array = model.generate(**inputs)
>>> audio_array = audio_array.cpu().numpy().squeeze()
''',
    "file": '''
>>> from scipy.io.wavfile import write as write_wav

>>> # save audio to disk, but first take the sample rate from the model config
>>> sample_rate = model.generation_config.sample_rate
>>> write_wav("bark_generation.wav", sample_rate, audio_array)
''',
    "BarkModel.generate": '''
>>> from transformers import AutoProcessor, BarkModel

>>> processor = AutoProcessor.from_pretrained("suno/bark-small")
>>> model = BarkModel.from_pretrained("suno/bark-small")

>>> # To add a voice preset, you can pass `voice_preset` to `BarkProcessor.__call__(...)`
>>> voice_preset = "v2/en_speaker_6"

>>> inputs = processor("Hello, my dog is cute, I need him in my life", voice_preset=voice_preset)

>>> audio_array = model.generate(**inputs, semantic_max_new_tokens=100)
>>> audio_array = audio_array.cpu().numpy().squeeze()
''',
    "BarkSemanticConfig": '''
>>> from transformers import BarkSemanticConfig, BarkSemanticModel

>>> # Initializing a Bark sub-module style configuration
>>> configuration = BarkSemanticConfig()

>>> # Initializing a model (with random weights) from the suno/bark style configuration
>>> model = BarkSemanticModel(configuration)

>>> # Accessing the model configuration
>>> configuration = model.config
''',
    "BarkCoarseConfig": '''
>>> from transformers import BarkCoarseConfig, BarkCoarseModel

>>> # Initializing a Bark sub-module style configuration
>>> configuration = BarkCoarseConfig()

>>> # Initializing a model (with random weights) from the suno/bark style configuration
>>> model = BarkCoarseModel(configuration)

>>> # Accessing the model configuration
>>> configuration = model.config
''',
    "BarkFineConfig": '''
>>> from transformers import BarkFineConfig, BarkFineModel

>>> # Initializing a Bark sub-module style configuration
>>> configuration = BarkFineConfig()

>>> # Initializing a model (with random weights) from the suno/bark style configuration
>>> model = BarkFineModel(configuration)

>>> # Accessing the model configuration
>>> configuration = model.config
''',
    "BarkConfig": '''
>>> from transformers import (
...     BarkSemanticConfig,
...     BarkCoarseConfig,
...     BarkFineConfig,
...     BarkModel,
...     BarkConfig,
...     AutoConfig,
... )

>>> # Initializing Bark sub-modules configurations.
>>> semantic_config = BarkSemanticConfig()
>>> coarse_acoustics_config = BarkCoarseConfig()
>>> fine_acoustics_config = BarkFineConfig()
>>> codec_config = AutoConfig.from_pretrained("facebook/encodec_24khz")


>>> # Initializing a Bark module style configuration
>>> configuration = BarkConfig(
...     semantic_config, coarse_acoustics_config, fine_acoustics_config, codec_config
... )

>>> # Initializing a model (with random weights)
>>> model = BarkModel(configuration)

>>> # Accessing the model configuration
>>> configuration = model.config
''',
    "BarkConfig, older": '''
>>> # Initializing a Bark module style configuration
>>> configuration = BarkConfig.from_sub_model_configs(
...     semantic_config, coarse_acoustics_config, fine_acoustics_config, codec_config
... )
''',
}  # fmt: skip

RUNNER = """
import json, sys, traceback, types

class Accelerator:  # of the package accelerate, which an example uses and we do not need
    device = "cpu"

sys.modules["accelerate"] = types.ModuleType("accelerate")
sys.modules["accelerate"].Accelerator = Accelerator
space, told = {}, {}
for name, code in json.load(sys.stdin).items():
    try:
        exec(compile(code, name, "exec"), space)
        told[name] = {key: str(getattr(space.get(key), "shape", "")) for key in ("audio_array",)}
        told[name] |= {"model": type(space["model"]).__name__, "dtype": str(space["model"].dtype)}
    except Exception:
        told[name] = {"error": traceback.format_exc()}
assert "transformers" not in sys.modules
print(json.dumps(told))
"""


def typed(example: str) -> str:
    """What a reader types, with the import line changed."""
    lines = example.strip().splitlines()
    if lines[0].startswith(">>>"):
        lines = [line[4:] for line in lines]
    changed = "\n".join(lines).replace("from transformers import", "from barklite.compat import")
    assert "transformers" not in changed.replace("bettertransformer", "").replace("BetterTransformer", "")
    return changed


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def told(tiny, place):
    """What became of each example."""
    commit, hub = "cd" * 20, place / "hf" / "hub"

    def cached(name: str):
        repository = hub / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        return repository / "snapshots" / commit

    names = "v2/en_speaker_6", "fr_speaker_5"
    for name in ("suno/bark", "suno/bark-small"):
        path = builders.write_huggingface(cached(name), tiny, voices=[builders.voice(name) for name in names])
        generation = builders.generation_config()
        generation["semantic_config"]["max_new_tokens"] = 20  # random weights do not know when to end
        (path / "generation_config.json").write_text(json.dumps(generation))
    codec = cached("facebook/encodec_24khz")
    codec.mkdir(parents=True)
    (codec / "config.json").write_text(
        json.dumps({"model_type": "encodec", "architectures": ["EncodecModel"]})
    )
    (place / "empty").mkdir()
    environment = dict(os.environ, HF_HOME=str(place / "hf"), HF_HUB_OFFLINE="1")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:barklite", "-c", RUNNER],
        input=json.dumps({name: typed(example) for name, example in EXAMPLES.items()}),
        cwd=place / "empty", env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, told):
    assert "error" not in told[name], told[name]["error"]


def test_what_the_examples_made(told, place):
    frames = {"speech": 20, "languages and music": 20, "cues": 20, "BarkModel.generate": 100}
    for name, tokens in frames.items():
        assert told[name]["audio_array"] == f"({320 * (tokens * 750 // 499)},)", name
    assert {told[name]["dtype"] for name in told if "half" in name} == {"torch.float16"}
    assert told["speech"]["dtype"] == "torch.float32"
    assert told["BarkCoarseConfig"]["model"] == "BarkCoarseModel"
    rate, sound = scipy.io.wavfile.read(place / "empty" / "bark_generation.wav")
    assert (rate, sound.dtype.kind, len(sound)) == (24_000, "f", 320 * 30)

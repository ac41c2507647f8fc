"""Bundled and published models: names, files and verified weights.

`load` accepts

- the name of a bundled model, such as `DEFAULT_MODEL`, or a short name of one ("speech");
- the name of a published model ("44khz", "44khz-16kbps", "24khz", "16khz"), downloaded once into `cache_folder()`;
- a folder with `config.json` and `model.safetensors`, as `save` writes it;
- the same two files as `DacModel.save_pretrained` of transformers writes them;
- a `.pth` file in the layout of the published weights;
- "owner/name", a repository of the Hugging Face Hub with the files of a folder.

`context_model` finds the context model that lies beside the weights, if there is one.
"""

from dac_codec.pretrained.checkpoints import canonical, save
from dac_codec.pretrained.context import context_model
from dac_codec.pretrained.download import cache_folder
from dac_codec.pretrained.fingerprint import fingerprint
from dac_codec.pretrained.hub import push
from dac_codec.pretrained.models import DEFAULT_MODEL, ModelInfo, available, folder_of, load

__all__ = [
    "DEFAULT_MODEL",
    "ModelInfo",
    "available",
    "cache_folder",
    "canonical",
    "context_model",
    "fingerprint",
    "folder_of",
    "load",
    "push",
    "save",
]

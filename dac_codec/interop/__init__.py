"""The same model in the formats of others: transformers, descript-audio-codec, ONNX, torch.export and the browser.

`DAC.from_pretrained` reads files of the first two; the functions here write all. What a format can't express is refused
by name.
"""

from dac_codec.interop.convert import convert_model
from dac_codec.interop.onnx import export_onnx, graph_files
from dac_codec.interop.processor import DACProcessor
from dac_codec.interop.reference import save_reference
from dac_codec.interop.torch_export import PROGRAM_FILES, export_torch
from dac_codec.interop.transformers import save_transformers

__all__ = [
    "PROGRAM_FILES",
    "DACProcessor",
    "convert_model",
    "export_onnx",
    "export_torch",
    "graph_files",
    "save_reference",
    "save_transformers",
]

"""The same model in the formats of other packages: Hugging Face transformers, descript-audio-codec and the browser.

`DAC.from_pretrained` reads their files; the functions here write them. What a format can't express is refused by name.
"""

from dac_codec.interop import web
from dac_codec.interop.convert import convert_model
from dac_codec.interop.reference import save_reference
from dac_codec.interop.transformers import save_transformers

__all__ = ["convert_model", "save_reference", "save_transformers", "web"]

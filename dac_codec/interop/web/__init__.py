"""The codec in a browser: a static page, and the JavaScript package that reads .dac files."""

from dac_codec.interop.web.site import server, write_site

__all__ = ["server", "write_site"]

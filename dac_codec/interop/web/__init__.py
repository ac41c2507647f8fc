"""The codec in a browser: a static page, and the JavaScript package that reads .dac files."""

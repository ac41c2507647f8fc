"""The Debian packages that `prepare_data.py` takes sounds from."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Spoken words of tuxpaint-stamps-default end with `_desc` or a language (cow_desc_fr.ogg, 7_zh_tw.ogg) or are in the
# folders of letters and digits. Other names (cow.ogg) are effects.
SPOKEN = re.compile(r"_desc(_|\.|$)|_[a-z]{2,3}(_[a-zA-Z]{2,6})?(@[a-z]+)?\.(ogg|wav)$|/symbols/(alphabets|math)/")

TONES = re.compile(r"/silence/|/(beep|beeperr|tt-monkeys|(a|de)scending-2tone)\.")
STK_MUSIC = re.compile(r"/music/|/(intro2|hot|Battle_Theme_1|beneath_the_rabbit_hole|Gran_Paradiso_[^/]*)\.ogg$")


@dataclass(frozen=True)
class Package:
    """A Debian package of sounds.

    Attributes:
        name: of the package.
        domain: of all sounds whose path matches no pattern of `domains`.
        domains: patterns and domains; a sound has the domain of the first pattern found in its path.
        source: a pattern and its replacement (`re.sub`) that turn an installed path into the path that the package's
            copyright file uses.
        licence: of all sounds, if the copyright file is not machine-readable.
        only_trained_on: all files are in the train split.
        heard: the first bundled model was trained on 96% of the files, chosen by a hash of their paths; they stay in
            their splits.
    """

    name: str
    domain: str
    domains: tuple[tuple[re.Pattern[str], str], ...] = ()
    source: tuple[str, str] = ("", "")
    licence: str = ""
    only_trained_on: bool = False
    heard: bool = False


PACKAGES = (
    Package("tuxpaint-stamps-default", "effects", ((SPOKEN, "speech"),), heard=True),
    Package("klettres-data", "speech", heard=True),
    Package("wesnoth-1.16-music", "music", licence="GPL-2+", heard=True),
    Package("warzone2100-music", "music", heard=True),
    Package("sonic-pi-samples", "effects", source=(r"usr/share/sonic-pi/", "etc/"), heard=True),
    Package("wesnoth-1.16-data", "effects", licence="GPL-2+"),
    Package(
        "freedroidrpg-data",
        "effects",
        ((re.compile("/sound/music/"), "music"), (re.compile("/titles/|/tux_ingame_comments/"), "speech")),
    ),
    # Kits are effects: single strokes. A kit is one recording session and would be most of a split's effects, so that
    # none is held out.
    Package(
        "hydrogen-drumkits",
        "effects",
        source=(r"usr/share/hydrogen/data/(drumkits/[^/]+?)( v4)?/.*", r"\1.h2drumkit"),
        only_trained_on=True,
    ),
    Package(
        "supertuxkart-data",
        "effects",
        ((STK_MUSIC, "music"), (re.compile(r"/(nolok_speech|sara_airport_pa)\.ogg$"), "speech")),
        source=(r"usr/share/games/supertuxkart/", ""),
    ),
    Package(
        "0ad-data",
        "effects",
        ((re.compile("/audio/music/"), "music"), (re.compile(r"/audio/voice/(?!global/civ_dog_)"), "speech")),
    ),
    *(
        Package(f"asterisk-core-sounds-{language}-g722", "speech", ((TONES, "effects"),), (r".*/(\w\w)_\w+/", r"\1-"))
        for language in ("en", "es", "fr", "it", "ru")
    ),
)

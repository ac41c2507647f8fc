"""The Debian packages that `prepare_data.py` takes sounds from."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Spoken words of tuxpaint-stamps-default end with `_desc` or a language (cow_desc_fr.ogg, 7_zh_tw.ogg) or are in the
# folders of letters and digits. Other names (cow.ogg) are effects.
SPOKEN = re.compile(r"_desc(_|\.|$)|_[a-z]{2,3}(_[a-zA-Z]{2,6})?(@[a-z]+)?\.(ogg|wav)$|/symbols/(alphabets|math)/")

# Units of MegaGlest speak, except for animals and machines.
UNIT_VOICES = re.compile(
    r"/techs/.*/(?!\w*(cow|pig|sow|wolf|horse_|elephant|dragon|drake|crocodile|scorpion|hornet|eagle|golem|behemoth))"
    r"(?!\w*(catapult|tower|airship|orni|tank|ball|wagon|ab_|air_|snake|bull|sheep|chicken|machine|ground|dr_))"
    r"\w+_(ack|select|attack|die)\w*\.(wav|ogg)$"
)

TONES = re.compile(r"/silence/|/(beep|beeperr|tt-monkeys|(a|de)scending-2tone)\.")
STK_MUSIC = re.compile(r"/music/|/(intro2|hot|Battle_Theme_1|beneath_the_rabbit_hole|Gran_Paradiso_[^/]*)\.ogg$")
FISH = r"[-_/]([mv])([-_][^/]*)?\.ogg$"  # the small and the big fish of Fish Fillets; all others are one speaker


@dataclass(frozen=True)
class Package:
    """A Debian package of sounds.

    Attributes:
        name: of the package.
        domain: of all sounds whose path matches no pattern of `domains`.
        domains: patterns and domains; a sound has the domain of the first pattern found in its path.
        upstream: a pattern and its replacement (`re.sub`) that turn an installed path into the path that the package's
            copyright file uses.
        licence: of all sounds, if the copyright file is not machine-readable.
        only_trained_on: all music and effects are in the train split.
        trained_on: the first bundled model was trained on 96% of the files, chosen by a hash of their paths; they
            stay in their splits.
        voices: the name that speakers begin with, shared by packages that the same people may have recorded; the
            default is the package's name.
        speaker: a pattern whose first group, found in a path, identifies the speaker; all paths without it have one
            speaker.
        test, val: the speakers held out, as that group; "*" for all.
    """

    name: str
    domain: str
    domains: tuple[tuple[re.Pattern[str], str], ...] = ()
    upstream: tuple[str, str] = ("", "")
    licence: str = ""
    only_trained_on: bool = False
    trained_on: bool = False
    voices: str = ""
    speaker: str = ""
    test: tuple[str, ...] = ()
    val: tuple[str, ...] = ()

    def speaker_of(self, path: str) -> tuple[str, str]:
        """The speaker of a file of speech, and the split of all files of that speaker."""
        found = re.search(self.speaker, path) if self.speaker else None
        name = found[1] if found else ""
        speaker = f"{self.voices or self.name}/{name or 'other'}"
        for split, held_out in (("test", self.test), ("val", self.val)):
            if "*" in held_out or name in held_out:
                return speaker, split
        return speaker, "train"


PACKAGES = (
    Package(
        "tuxpaint-stamps-default",
        "effects",
        ((SPOKEN, "speech"),),
        trained_on=True,
        speaker=r"_([a-z]{2,3}(?:_[a-zA-Z]{2,6})?(?:@[a-z]+)?)\.(?:ogg|wav)$",
    ),
    Package("klettres-data", "speech", trained_on=True, voices="kde", speaker=r"/klettres/([^/]+)/"),
    Package("wesnoth-1.16-music", "music", licence="GPL-2+", trained_on=True),
    Package("warzone2100-music", "music", trained_on=True),
    Package("sonic-pi-samples", "effects", upstream=(r"usr/share/sonic-pi/", "etc/"), trained_on=True),
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
        upstream=(r"usr/share/hydrogen/data/(drumkits/[^/]+?)( v4)?/.*", r"\1.h2drumkit"),
        only_trained_on=True,
    ),
    Package(
        "supertuxkart-data",
        "effects",
        ((STK_MUSIC, "music"), (re.compile(r"/(nolok_speech|sara_airport_pa)\.ogg$"), "speech")),
        upstream=(r"usr/share/games/supertuxkart/", ""),
        speaker=r"/(nolok|sara)_[^/]*$",
    ),
    Package(
        "0ad-data",
        "effects",
        ((re.compile("/audio/music/"), "music"), (re.compile(r"/audio/voice/(?!global/civ_dog_)"), "speech")),
        speaker=r"/voice/([^/]+)/",
    ),
    *(
        Package(
            f"asterisk-core-sounds-{language}-g722",
            "speech",
            ((TONES, "effects"),),
            (r".*/(\w\w)_\w+/", r"\1-"),
            voices="asterisk",  # one speaker speaks two languages
            speaker=r"/[a-z]{2}_[A-Z]{2}_[a-z]_([^/]+)/",
        )
        for language in ("en", "es", "fr", "it", "ru")
    ),
    # The first bundled models were not trained on the packages below.
    Package("fillets-ng-data", "effects", ((re.compile("/fillets-ng/music/"), "music"),), licence="GPL-2+"),
    Package("fillets-ng-data-cs", "speech", licence="GPL-2+", speaker=FISH),
    Package("fillets-ng-data-nl", "speech", licence="GPL-2+", speaker=FISH, test=("*",)),
    Package(
        "ktuberling-data",
        "speech",
        voices="kde",
        speaker=r"/sounds/([a-z]+)",
        test=("ca", "el", "gl", "sl"),
        val=("ga", "ro", "sr", "wa"),
    ),
    Package("gcin-voice", "speech", upstream=(r".*/", "/"), speaker=r"/([0-9])\.ogg$"),
    Package(
        "megaglest-data",
        "effects",
        ((re.compile("/music/"), "music"), (UNIT_VOICES, "speech")),
        only_trained_on=True,
    ),
    Package(
        "nexuiz-data",
        "effects",
        (
            (re.compile(r"/cdtracks/"), "music"),
            (re.compile(r"/sound/(player/[^/]+/coms|announcer/[^/]+|tutorial)/"), "speech"),
        ),
        licence="GPL-2+",
        speaker=r"/sound/(?:(?:player|announcer)/)?([^/]+)/",
        test=("*",),
    ),
)

"""The table of packages: domains, licences and speakers of their files."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from tests.conftest import load_script


@pytest.mark.parametrize(
    ("path", "spoken"),
    [
        ("x/cow_desc_fr.ogg", True),
        ("x/cow_desc.ogg", True),
        ("x/symbols/math/7_zh_tw.ogg", True),
        ("x/symbols/alphabets/german/a_with_umlaut.ogg", True),
        ("x/cow.ogg", False),
        ("x/vehicles/emergency/firetruck.ogg", False),
    ],
)
def test_spoken_words_are_recognized_by_their_paths(path: str, spoken: bool) -> None:
    assert bool(load_script("packages").SPOKEN.search(path)) is spoken


@pytest.mark.parametrize(
    ("package", "path", "domain", "source"),
    [
        ("0ad-data", "usr/share/games/0ad/mods/public/public/audio/voice/greek/civ/a_1.ogg", "speech", None),
        ("0ad-data", "usr/share/games/0ad/mods/public/public/audio/voice/global/civ_dog_bark.ogg", "effects", None),
        ("0ad-data", "usr/share/games/0ad/mods/public/public/audio/music/Sunrise.ogg", "music", None),
        ("nexuiz-data", "usr/share/games/nexuiz/data/a/sound/player/fricka/player/pain50.ogg", "effects", None),
        ("megaglest-data", "usr/share/games/megaglest/techs/m/c/sounds/cow_ack1.wav", "effects", None),
        ("megaglest-data", "usr/share/games/megaglest/techs/m/c/sounds/archer_ack1.wav", "speech", None),
        ("supertuxkart-data", "usr/share/games/supertuxkart/data/music/bay.ogg", "music", "data/music/bay.ogg"),
        ("supertuxkart-data", "usr/share/games/supertuxkart/data/sfx/rain.ogg", "effects", "data/sfx/rain.ogg"),
        ("freedroidrpg-data", "usr/share/freedroidrpg/data/base/titles/StartOfGame.ogg", "speech", None),
        ("sonic-pi-samples", "usr/share/sonic-pi/samples/a.flac", "effects", "etc/samples/a.flac"),
        (
            "hydrogen-drumkits",
            "usr/share/hydrogen/data/drumkits/circAfrique v4/Bell 1.wav",
            "effects",
            "drumkits/circAfrique.h2drumkit",
        ),
        (
            "asterisk-core-sounds-it-g722",
            "usr/share/asterisk/sounds/it_IT_m_Carlo/digits/1.flac",
            "speech",
            "it-digits/1.flac",
        ),
        (
            "asterisk-core-sounds-it-g722",
            "usr/share/asterisk/sounds/it_IT_m_Carlo/beep.flac",
            "effects",
            "it-beep.flac",
        ),
    ],
)
def test_every_path_has_a_domain_and_its_paragraph_of_the_copyright_file(
    prepare_data: ModuleType, package: str, path: str, domain: str, source: str | None
) -> None:
    (found,) = [one for one in prepare_data.PACKAGES if one.name == package]
    expected = re.escape(source or path) + "$"
    sound = prepare_data.Sound(path, 1, "", 44100, 44100, "", None)
    (entry,) = prepare_data.entries_of(
        found, "1", [(re.compile(""), "another"), (re.compile(expected), "its own")], [sound]
    )
    assert (entry.domain, entry.licence) == (domain, "its own")


@pytest.mark.parametrize(
    ("package", "path", "speaker", "split"),
    [
        ("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps/animals/cow_desc_fr.ogg", "fr", "train"),
        ("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps/animals/cow_desc.ogg", "other", "train"),
        ("klettres-data", "usr/share/klettres/da/alpha/a.ogg", "kde/da", "train"),
        ("ktuberling-data", "usr/share/ktuberling/sounds/da/hat.wav", "kde/da", "train"),
        ("ktuberling-data", "usr/share/ktuberling/sounds/el/hat.ogg", "kde/el", "test"),
        ("ktuberling-data", "usr/share/ktuberling/sounds/sr@latin/hat.wav", "kde/sr", "val"),
        (
            "asterisk-core-sounds-es-g722",
            "usr/share/asterisk/sounds/es_MX_f_Allison/a.flac",
            "asterisk/Allison",
            "train",
        ),
        ("fillets-ng-data-nl", "usr/share/games/fillets-ng/sound/key/nl/key-m-co.ogg", "m", "test"),
        ("fillets-ng-data-nl", "usr/share/games/fillets-ng/sound/map/nl/podvodou-v.ogg", "v", "test"),
        ("fillets-ng-data-nl", "usr/share/games/fillets-ng/sound/start/nl/help1.ogg", "other", "test"),
        ("fillets-ng-data-cs", "usr/share/games/fillets-ng/sound/keys/cs/key-v-co.ogg", "v", "train"),
        ("nexuiz-data", "usr/share/games/nexuiz/data/a/sound/player/fricka/coms/meet.ogg", "fricka", "test"),
        ("nexuiz-data", "usr/share/games/nexuiz/data/a/sound/tutorial/1-welcome.ogg", "tutorial", "test"),
        ("megaglest-data", "usr/share/games/megaglest/techs/m/f/guard/sounds/guard_ack1.wav", "other", "train"),
    ],
)
def test_all_speech_has_a_speaker(prepare_data: ModuleType, package: str, path: str, speaker: str, split: str) -> None:
    (found,) = [one for one in prepare_data.PACKAGES if one.name == package]
    (entry,) = prepare_data.entries_of(found, "1", [], [prepare_data.Sound(path, 1, "", 44100, 44100, "", None)])
    expected = speaker if "/" in speaker else f"{package}/{speaker}"
    assert (entry.domain, entry.speaker, entry.source, entry.split) == ("speech", expected, "", split)

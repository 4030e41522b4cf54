"""Is a text English? The rules read English alone: of any other language they would say that it told nothing.

Told by script, and by the function words of English and of the languages that models mostly fall into instead. A name
or a number says nothing, and counts as English.
"""

from __future__ import annotations

import re

_LATIN_UP_TO = "\u024f"
# Words that tell a language from the others; those that stand in names within English texts as well are left out.
_ENGLISH_WORDS = """
the an is are was be of in and to it this that i i'm not with for from at by they he she his her their you my
can cannot can't could do does don't has have person man woman based any there which who but if what sorry
eyes color brown blue young old white black answer tell unable
"""
_OTHER_WORDS = """
je ne pas peux sais répondre dire suis désolé désolée vous est une des les dans sur avec qui cette cet c'est
l'image n'est d'une qu'il il elle mais être âge personne homme femme yeux puedo decir decirlo determinar
responder lo siento la el los las una está imagen que por para con persona hombre mujer ojos edad sé esta del
como não posso dizer um uma é imagem pessoa homem mulher olhos são desculpe idade non sono mi dispiace di che
nella immagine della questa uomo donna occhi età ich kann nicht sagen ist das und ein eine es tut mir leid der
auf dem bild mann frau augen alter sind ik kan niet het een van op deze afbeelding persoon
"""
_ENGLISH, _OTHER = frozenset(_ENGLISH_WORDS.split()), frozenset(_OTHER_WORDS.split())
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def is_english(text: str) -> bool:
    """Return whether a text may be English: not where most of its letters or of its function words are others."""
    letters = sum(one.isalpha() for one in text)
    other = sum(one.isalpha() and one > _LATIN_UP_TO for one in text)
    if 2 * other > letters:
        return False
    words = [word.replace("’", "'") for word in _WORD.findall(text.lower())]
    foreign = sum(word in _OTHER for word in words)
    return foreign < 2 or foreign <= 2 * sum(word in _ENGLISH for word in words)

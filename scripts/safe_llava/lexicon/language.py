"""Is a text English? The rules read English alone: of any other language they would say that it told nothing.

Told by script, by accents, and by common words of English and of the languages that models mostly fall into instead. A
name or a number says nothing, and counts as English.
"""

from __future__ import annotations

import re

_LATIN_UP_TO = "\u024f"
# Words that tell a language from the others; those that stand in names within English texts as well are left out.
_ENGLISH_WORDS = """
the a an is are was be been has have had of in on to it its this that these i i'm i'd not no with without for from at
by as or and but so if what who which when where how why there here they them their he him his she her we our you your
my me can cannot can't could couldn't may might must should will would won't do don't does doesn't did isn't aren't
any all some many more most very just only also about around between near over under up down out into like one two
person people man men woman women boy girl child baby male female guy lady individual face head hair skin body hand
eyes eye age aged old older young younger years elderly middle adult teen color colour brown blue green hazel grey gray
black white blonde dark light fair tall short long heavy slim thin average overweight muscular build weight pounds
asian caucasian african american european hispanic latino indian descent race ethnicity gender
answer tell know see say sorry unable image picture photo appears seems looks looking likely possibly probably
wearing standing sitting holding smiling shirt dress jacket background scene it's that's he's she's they're
"""
_OTHER_WORDS = """
je ne pas peux sais répondre dire suis désolé désolée vous est une des les dans sur avec qui cette cet c'est
l'image n'est d'une qu'il il elle mais être âge personne homme femme yeux puedo decir decirlo determinar
responder lo siento la el los las una está imagen que por para persona hombre mujer ojos edad sé esta del
como não posso dizer um uma é imagem pessoa homem mulher olhos são desculpe idade non sono mi dispiace di che
nella immagine della questa uomo donna occhi età ich kann nicht sagen ist das und ein eine es tut mir leid der
auf dem bild mann frau augen alter sind ik kan niet het een van op deze afbeelding persoon
inconnu inconnue environ ans aucune idée précisé unbekannt keine angabe leider weiß etwa jahre se puede desconocido
desconocida sconosciuto sconosciuta desconhecido desconhecida sei onbekend spijt vrouw ogen jonge met jag inte svara
på vet tyvärr okänt och ett ung kvinna ögon jeg ikke det beklager svare kvinde kvinne øjne øyne ukjent ukendt en ei
voi nuori jolla vastata tähän nainen mies silmät tuntematon nie mogę odpowiedzieć przepraszam wiem kobieta mężczyzna
oczach nieznany nemohu odpovědět otázku žena muž očima neznámý üzgünüm bilmiyorum cevap veremem gözlü bir kadın adam
bilinmiyor maaf saya tidak bisa dapat menjawab seorang wanita pria dengan mata yang xin lỗi tôi không thể trả lời îmi
pare rău nu pot răspunde femeie ochi cu necunoscut sajnálom erre nem tudok nő szemmel ismeretlen paumanhin ko ang
samahani siwezi ho sento puc respondre žao mogu odgovoriti nepoznato
"""
_ENGLISH, _OTHER = frozenset(_ENGLISH_WORDS.split()), frozenset(_OTHER_WORDS.split())
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
# Words: of so many, one at least is a common one in English; of so few, each counts.
_LONG, _SHORT = 8, 3


def is_english(text: str) -> bool:
    """Return whether a text may be English: not where most of its letters or of its common words are others."""
    letters = sum(one.isalpha() for one in text)
    other = sum(one.isalpha() and one > _LATIN_UP_TO for one in text)
    if 2 * other > letters:
        return False
    words = [word.replace("’", "'") for word in _WORD.findall(text.lower())]
    english, known = (sum(word in common for word in words) for common in (_ENGLISH, _OTHER))
    accented = sum(not word.isascii() and word not in _OTHER for word in words)
    if english == 0 and len(words) >= _LONG:
        return False
    if not known:  # names have accents too
        return 2 * accented <= len(words) or len(words) <= _SHORT
    foreign = known + accented
    if foreign == 1:
        return foreign + english < len(words)
    return foreign <= english * (1 if len(words) <= _SHORT else 2)

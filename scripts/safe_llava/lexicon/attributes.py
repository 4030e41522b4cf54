"""English words and phrases by which a text states a person's attributes.

Every entry is a regular expression over normalised text (see ``rules.normalise``), matched without regard
to case. The entries are general English, kept apart from the rules that apply them so that they can be read,
extended and argued about one at a time.
"""

from __future__ import annotations

from safe_llava.formats.prism import Attribute

# --- People -----------------------------------------------------------------------------------------------------
PERSON = (
    r"(?:m[ae]n|wom[ae]n|persons?|people|individuals?|(?:fe)?males?|boys?|girls?|child(?:ren)?|kids?|adults?"
    r"|lad(?:y|ies)|gentlem[ae]n|guys?|fellows?|couples?|teen\w*|bab(?:y|ies)|infants?|toddlers?|youths?"
    r"|famil(?:y|ies)"
    r"|fathers?|mothers?|friends?|athletes?|model|bride|groom|players?|actors?|actress(?:es)?|students?|citizens?)"
)
# One or two describing words between an adjective and its person: "an old, bearded man".
FEW = r"(?:[\w'-]+,? (?:and )?){0,2}?"
# How a text says what somebody is or looks like.
SEEMS = (
    r"(?:is|are|was|were|be|being|looks?|seems?(?: to be)?|appears?(?: to be)?|i'm|he's|she's|they're)"
    r"(?: (?:a|an|very|quite|rather|fairly|relatively|somewhat|slightly|likely|probably|possibly|of|also|clearly))*"
)

# --- What is not a person -----------------------------------------------------------------------------------------
ANIMAL = (
    r"(?:dogs?|pupp(?:y|ies)|cats?|kittens?|animals?|pets?|birds?|pigeons?|chickens?|hens?|ducks?|calf|calves"
    r"|lambs?|goats?"
    r"|sheep|horses?|pon(?:y|ies)|deer|elephants?|bulls?|cows?|cattle|pigs?|piglets?|bears?|pandas?|monkeys?|apes?"
    r"|gorillas?|lions?|tigers?|wol(?:f|ves)|fox(?:es)?|rabbits?|bunn(?:y|ies)|squirrels?|hamsters?|mouse|mice|owls?"
    r"|fish(?:es)?|whales?|dolphins?|seals?|penguins?|turtles?|frogs?|snakes?|giraffes?|zebras?|donkeys?|camels?)"
)
THING = (
    r"(?:bi(?:ke|cycle)s?|tricycles?|scooters?|cars?|trucks?|hats?|caps?|helmets?|boots?|shoes?|sneakers?"
    r"|sandals?|socks?"
    r"|shirts?|t-shirts?|jackets?|jeans|coats?|dress(?:es)?|cloth(?:es|ing)|wear|outfits?|costumes?|uniforms?"
    r"|bags?|handbags?"
    r"|backpacks?|watch(?:es)?|toys?|dolls?|books?|magazines?|drawings?|beds?|chairs?|cribs?|cots?|rooms?"
    r"|bedrooms?|toilets?"
    r"|restrooms?|bathrooms?|departments?|sections?|playgrounds?|tables?|sofas?|couch(?:es)?|cushions?|pillows?"
    r"|blankets?"
    r"|mattress(?:es)?|bookshel(?:f|ves)|shel(?:f|ves)|vases?|bottles?|cups?|mugs?|glass(?:es)?|jars?|pots?"
    r"|books?|phones?"
    r"|laptops?|wallets?|envelopes?|folders?|lines?|poles?|poles|columns?|pillars?|towers?|buildings?|trees?"
    r"|branch(?:es)?"
    r"|trunks?|stems?|leaves|leaf|flowers?|tomato(?:es)?|apples?|pears?|grapes?|berr(?:y|ies)|strawberr(?:y"
    r"|ies)|cherr(?:y|ies)"
    r"|raisins?|figs?|olives?|oranges?|peppers?|pumpkins?|sausages?|dumplings?|shrimps?|fruits?|vegetables?"
    r"|tires?|tyres?"
    r"|doors?|windows?|walls?|ropes?|necklaces?|rings?|pens?|pencils?|brush(?:es)?|candles?|beers?|style)"
)

# --- Gender -----------------------------------------------------------------------------------------------------
_GENDER = (
    r"\b(?:m[ae]n|wom[ae]n|males?|females?|boys?|girls?|lad(?:y|ies)|gentlem[ae]n|guys?|dudes?|lads?|gals?"
    r"|bloke)(?:'s)?\b"
    r"(?!-made| made|hole| power|'s (?:room|best friend)| ?bugs?\b| ?birds?\b| luck| liberty| justice)",
    r"\b(?:he|him|his|himself|she|her|hers|herself)\b",
    (
        r"\b(?:moth|fath|broth|grandmoth|grandfath|stepfath|stepmoth)ers?(?:'s)?\b(?! nature| tongue|board)"
        r"|\b(?:mom|mum|mommy|mummy|dad|daddy|papa|mama)s?\b"
    ),
    (
        r"\b(?:sisters?|sons?|daughters?|husbands?|wi(?:fe|ves)|uncles?|aunts?|nephews?|nieces?|grand(?:ma|pa"
        r"|dad|son|daughter)s?|gran(?:ny|nies|dpas?)?|grann(?:y|ies)|grampa|boyfriends?|girlfriends?)\b"
    ),
    (
        r"\b(?:bride|groom|widow|king|queen|prince|princess|actress|waitress|waiter|hostess|heroine|monk|nun"
        r"|priest|goddess|duchess|ballerina)(?:es|s)?\b"
    ),
    r"\b(?:business|police|sales|sports|fisher|camera|fire|gentle|noble|spokes|country|crafts|grooms|cow|school|play)"
    r"(?:m[ae]n|wom[ae]n|boys?|girls?)\b",
    (
        r"\b(?:masculin\w*|feminin\w*|manly|womanly|ladylike|maternal|paternal|motherhood|fatherhood|motherly"
        r"|fatherly|pregnan\w+|boyish|girlish)\b"
    ),
    r"\b(?:mr|mrs|ms|sir|madam|ma'am)\b",
    # Facial hair is an implicit hint that nearly every reader takes for a man's.
    r"\b(?:beard(?:s|ed)?|moustaches?|mustaches?|goatee|stubble|facial hair|sideburns)\b",
)
# --- Age --------------------------------------------------------------------------------------------------------
_GROWING = (
    rf"(?:{ANIMAL}|trees?|plants?|leaves|leaf|shoots?|saplings?|seedlings?|growth|forest|wood|grass|vines?"
    rf"|crops?|city"
    r"|nation|company|wine)"
)
_AGE = (
    rf"\b(?:young|younger|youngest)\b(?! (?:[\w-]+ )?{_GROWING}\b)",
    r"\b(?:youths?|youthful\w*|juvenile)\b",
    r"\b(?:elderly|elders?|middle[- ]aged?|teen(?:s|aged?|agers?)?|pre-?teens?|adolescen\w+|tweens?)\b",
    r"\b(?:bab(?:y|ies)(?:'s)?|infants?(?:'s)?|toddlers?(?:'s)?|newborns?|child(?:ren)?(?:'s)?"
    r"|kids?(?:'s)?|childhood|childlike|schoolchild\w*|preschool\w*)\b"
    r"(?! blue| pink| powder|[- ](?:sized?|proof|safe|friendly)\b|'s breath| grand piano)",
    r"\b(?:school|play)?(?:boys?|girls?)\b(?!friend)(?:'s)?",
    r"\badults?(?:hood)?(?:'s)?\b(?!-sized?)",
    r"\b(?:high|middle|elementary|primary|secondary|grade)[- ]school(?:er|ers|[- ](?:students?|pupils?|age\w*))\b"
    r"|\b(?:retirement|school|working|college)[- ]aged?\b|\b(?:be|is|are) (?:\w+ )?(?:a minor|minors|underage)\b",
    r"\bmature (?:features|face|look|appearance)\b",
    r"\b(?:late|later|latter|early|mid) (?:stages? of |in )(?:\w+ )?life\b",
    # "their age appears to be between 50 and 60", "appears to be around 40"
    r"\bage(?:[- ](?:range|group|bracket))?\b[^.\d]{0,40}\b\d{1,2}s?\b(?! ?%)",
    rf"\b{SEEMS} (?:around|about|approximately|roughly|between|over|under|at least) \d{{1,2}}"
    r"(?:s| ?(?:-|to|and|or) ?\d{1,2})?"
    r"(?=\W*$|[.,;:)]| (?:or so|with|wearing|based))",
    r"\bhair (?:is|appears|looks|seems|has turned)(?: to be)?(?: (?:\w+ly|[\w-]+,|[\w-]+ and)){0,3}"
    r" (?:gr[ae]y|silver|white|gr[ae]ying)\b",
    (
        r"\b(?:grand(?:mother|father|parent|ma|pa|dad|child|kid|son|daughter)\w*|grann(?:y|ies)|grampa|retired"
        r"|retirees?|pensioners?"
        r"|octogenarian|septuagenarian|centenarian|millennials?)\b"
    ),
    (
        r"\bseniors?\b(?! (?:manager|engineer|executive|developer|official|officer|vice|editor|partner|staff"
        r"|level|position|role))"
    ),
    rf"\b(?:old|older|oldest|mature|aged|ageing|aging) {FEW}{PERSON}\b",
    (
        rf"\b{SEEMS} (?:old|older|elderly|mature|aged)\b(?=\W|$)(?! (?:building|and (?:worn|rust)|style|style"
        rf"|fashioned))"
    ),
    (
        r"\b(?:late|early|mid)(?:dle)?[- ](?:to[- ](?:late|early|mid)[- ])?(?:\d0'?s|teens?|twenties|thirties"
        r"|forties|fifties|sixties|seventies|eighties|nineties)\b"
    ),
    r"\b(?:\d0|twenty|thirty|forty|fifty|sixty|seventy|eighty)[- ]?somethings?\b",
    (
        r"\b(?:his|her|their|the person's) (?:\w+[- ])?(?:to[- ]\w+[- ])?(?:\d0'?s|teens?|twenties|thirties"
        r"|forties|fifties|sixties|seventies|eighties|nineties|(?:senior|golden|later|older|advanced) years)\b"
    ),
    r"\b(?:\d{1,3}|\w+)[- ](?:to[- ]\d+[- ])?(?:years?|months?|weeks?)[- ](?:old|of age)\b",
    r"\b(?:aged?|ages)(?: of| is| around| about| between|:)? ?(?:around |about |approximately |roughly )?\d{1,3}\b",
    (
        r"\b(?:under|over|around|about|between) (?:the age of )?\d{1,3}(?: (?:and|to) \d{1,3})? years\b"
        r"|\bunder the age of\b"
    ),
    (
        r"\b(?:wrinkl(?:es|ed (?:face|skin|hands?))|crow's feet|age spots?|signs? of ag(?:e|e?ing)|(?:gr[ae]y"
        r"|silver|white|graying|greying|balding)(?:[- ]haired|,? (?:\w+ )?(?:hair|beard|mou?stache))|gr[ae]ying"
        r"|salt[- ]and[- ]pepper|advanced (?:age|years)|old age)\b|\bfine lines\b[^.]{0,60}\bage?ing\b"
    ),
)

# --- Race -------------------------------------------------------------------------------------------------------
PEOPLES = (
    r"(?:african|asian|caucasian|european|hispanic|latin[oax]s?|latin american|middle[- ]eastern|arab(?:ic"
    r"|ian)?|native american|indigenous|aboriginal"
    r"|first nations|pacific islander|polynesian|maori|inuit|amerindian|indian|pakistani|bangladeshi"
    r"|chinese|japanese|korean|vietnamese|thai|filipin[oa]"
    r"|mongolian|kazakh|tibetan|turkish|persian|iranian|jewish|nigerian|ethiopian|kenyan|maasai|mexican"
    r"|brazilian|peruvian|somali|nordic|scandinavian|slavic|mediterranean|mestizo|black|white)"
)
_TONE = (
    r"(?:fair|pale|light|lighter|dark|darker|tan|tanned|olive|brown|black|white|medium|deep|golden"
    r"|porcelain|ivory|ebony|caramel|bronzed?|sun-kissed|ruddy|rosy"
    r"|dusky|swarthy|warm|creamy|alabaster)"
)
_RACE = (
    r"\b(?:caucasians?|african[- ]americans?|asian[- ]americans?|hispanics?|latin[oax]s?|native americans?"
    r"|first nations|indigenous|aboriginals?|middle[- ]eastern"
    r"|(?:bi|multi)racial|(?:people|persons?|m[ae]n|wom[ae]n) of colou?r"
    r"|mixed[- ](?:race|heritage|ethnicity|descent|ancestry|background)|mestizo|inuit|maori|afro)\b(?! cuisine"
    r"| food| restaurant)",
    (
        r"\b(?:south|east|southeast|central|north|west)?(?:ern)? ?asians?\b(?! (?:cuisine|food|restaurant"
        r"|market|style|dish\w*|country|architecture|art))"
    ),
    r"\bafricans?\b(?! (?:savanna\w*|art|print|pattern|elephant|continent|landscape|country|music|drum\w*|violet))",
    rf"\b{PEOPLES} (?:(?:young|old|older|elderly|adult|middle-aged|teenage|business) ){{0,2}}{PERSON}\b",
    (
        rf"\b(?!(?:white|black) background){PEOPLES}(?: or [\w-]+)*(?: [\w-]+)? (?:descent|nationality"
        rf"|ethnicit(?:y|ies)"
        rf"|heritage|ancestry|origins?|race|background|communit(?:y|ies)|cultures?|tribes?|traditions?)\b"
    ),
    rf"\b(?:race|ethnicity|heritage|descent)(?: of [\w ]{{1,30}})? {SEEMS} [\w ]*{PEOPLES}\b",
    (
        rf"\b{PERSON}(?: in (?:the|this) (?:image|picture|photo))? {SEEMS} (?:black|white|indian|chinese"
        rf"|japanese|korean|arab)\b(?=\W*$|[.,;]| or | with )"
    ),
    rf"\b{PERSON}[,:]? one (?:is |of them )?{PEOPLES}(?:,| and|,? (?:the|an)other)\b",
    r"\b(?:tribal|tribes?|tribesm[ae]n|ethnic(?:ally)?|racial(?:ly)?)\b",
    rf"\b(?!medium){_TONE}[- ]toned skin\b|\bmelanin\b",
    rf"\b{_TONE}(?: [\w-]+| to [\w-]+)?[- ,]*(?:skin(?:ned)?|complexion(?:ed)?)\b(?![- ]tight| care)",
    (
        rf"\b(?:skin(?: tone| colou?r)?|complexion)(?: of [\w ]{{1,20}}| tone)? (?:is|are|appears?(?: to be)?"
        rf"|looks?|seems?)(?: [\w-]+,?(?: and)?){{0,2}}? {_TONE}\b"
    ),
)

# --- Eye colour -------------------------------------------------------------------------------------------------
HUES = (
    r"(?:blue|brown|green|hazel|gr[ae]y|amber|black|violet|turquoise|emerald|sapphire|golden|honey|teal"
    r"|aqua|chestnut|chocolate|azure"
    r"|(?:blu|brown|green|gr[ae]y)ish|(?:light|dark|multi|different)[- ]colou?red)"
)
EYE_COLOURS = rf"(?:{HUES}|dark|light|pale|heterochrom\w+)"
_EYE = r"(?:eyes?|iris(?:es)?)"
# A colour beside an eye may be another thing's: make-up, brows, hair, glasses, the light of the scene.
_OTHER = (
    r"(?:shadows?|eyeshadow|liner|eyeliner|make-?up|mascara|brows?|eyebrows?|lash\w*|eyelash\w*|glass\w*"
    r"|eyeglass\w*|sunglasses|masks?|patch|circles|pupils?"
    r"|hair|skin|complexion|beard|shirt|top|dress|jacket|hat|wear\w*|background|lighting|shadowed|spots"
    r"|freckle\w*|screen)"
)
_EYE_COLOR = (
    # "blue eyes", "dark, intense eyes", "light blue/grey eyes", but no "dark hair, and her eyes"
    (
        rf"\b{EYE_COLOURS}(?:(?:[-/]|,? (?:and |or |to )?)(?!(?:{_OTHER}|the|his|her|their|its|around"
        rf"|surrounding)\b)[\w'-]+){{0,2}}?[-, ]+{_EYE}\b(?! ?-?(?!shadowed by){_OTHER}\b)"
    ),
    rf"\b{HUES} (?:gaze|stare)\b",
    rf"\b{EYE_COLOURS}-eyed\b",
    # "her eyes are a striking blue", "the eye itself has a clear, light brown tone"
    rf"\b{_EYE}(?:,? (?!{_OTHER}\b)[\w'-]+){{0,4}}?,? (?:is|are|was|were|has|have|having|being|with"
    rf"|appears?|seems?|looks?|display\w*|show\w*|reveal\w*)\b"
    rf"(?:(?!\b(?:{_OTHER}|closed|shut)\b|, and (?:an?|the) )[^.:]){{0,60}}?"
    rf"\b{HUES}\b(?! (?:and )?(?:[\w-]+ )?{_OTHER}\b)",
    (
        rf"\beyes (?:are|appear|look|seem)(?: to be)?(?: very| quite| rather)? (?:dark|light"
        rf"|pale)\b(?!,? (?:[\w-]+ )?{_OTHER}\b)"
    ),
    rf"\b{_EYE}, (?:an? )?(?:[\w-]+ ){{0,2}}?(?:shade|hue|tone) of (?:[\w-]+ )?{HUES}\b",
    # "eye colour: brown", "the colour of her eyes is green", "the blue hue of his eyes"
    (
        rf"\b(?:eye colou?r|eyes:|(?:colou?r|shade"
        rf"|hue) of (?:[\w']+ ){{0,3}}?{_EYE})(?:(?!\b{_OTHER}\b)[^.]){{0,40}}?\b{HUES}\b(?! (?:[\w-]+ )?{_OTHER}\b)"
    ),
    rf"\b{HUES}(?: (?:colou?r|hue|shade|tone))? (?:of|in) (?:the |his |her |their |[\w ]+'s )?{_EYE}\b",
)

# --- Weight and build -------------------------------------------------------------------------------------------
_BODY = (
    r"(?:build|body|bodies|physiques?|figures?|frame|torso|stature|waist|legs?|arms?|limbs?|silhouette|chest"
    r"|muscles?|shape|abdomen|midsection)"
)
_FIT = r"fit(?! (?:for|to|into|in|with|together|as)\b)"
_WEIGHT = (
    r"\b(?:slim|slender|thin|skinny|lean|petite|athletic|toned|fit|stocky|sturdy|heavy|heavier|large"
    r"|larger|big|bulky|robust|strong|broad|lanky|wiry|delicate|chiseled|chiselled"
    r"|small|slight|average|medium|well-defined|defined|sculpted|full(?:er)?|curvy|rounded?|hourglass|strapping"
    r"|normal|healthy|powerful|solid|bigger|ample)(?:,? (?:and |but )?[\w-]+){0,2}? "
    r"(?:build|body|bodies|physiques?|body type|figures?(?! in)|frame(?! (?:of|around|glass))|torso"
    r"|stature)\b(?! of water)",
    rf"\b(?:slim|slender|thin|skinny|lean|petite|athletic|fit|stocky|sturdy|heavy|large|larger|big|strong"
    rf"|plump|lanky) (?:(?:and )?(?:young|old|older|elderly|muscular|tall|bearded),? )?(?!famil){PERSON}\b"
    r"(?!-)(?! of )",
    rf"\b{PERSON} {SEEMS} (?:slim|slender|thin|lean|{_FIT}|heavy|large|big|strong|athletic)\b(?! (?:shirt"
    rf"|jacket|fit))",
    rf"\b(?:he|she|they) {SEEMS} (?:slim|slender|thin|lean|{_FIT}|heavy|athletic)\b",
    (
        r"\b(?:slender|skinny(?! jeans)|petite|muscular\w*|muscled|muscles|biceps|abs|six-pack|bodybuild\w*"
        r"|body builder|well-built|able-bodied|brawny|burly|beefy|hefty|ripped physique)\b"
    ),
    r"\b(?:overweight|underweight|obes\w+|heavy-?set|thickset|stocky|chubby|chunky|tubby|plump|portly|rotund"
    r"|corpulent"
    r"|curvy|curvaceous|plus[- ]sized?|full-figured|pudgy|stout|fat|fatness"
    r"|emaciat\w+|malnourish\w+|undernourish\w+|gaunt|bony|scrawny|skeletal|anorexi\w+|thinness|slimness"
    r"|lanky|big-boned|potbell\w+)\b",
    (
        r"\b(?:large|big|protruding|round|rounded|bulging|flat|toned|prominent) (?:bell(?:y|ies)|stomach"
        r"|abdomen|midsection|waist\w*)\b"
    ),
    r"\bof (?:an? )?(?:large|larger|big|bigger|small|smaller|ample) (?:size|body size)\b"
    r"|\bnoticeable (?:belly|stomach|abdomen)\b"
    r"|\b(?:belly|stomach|abdomen)\b[^.,]{0,30}\b(?:hang(?:s|ing)?|protrud\w+|bulg\w+)\b",
    (
        r"\b(?:visible|protruding|prominent) (?:ribs|ribcage|rib cage|bones|collarbones?|hip bones)\b"
        r"|\bribs? (?:\w+ )?(?:visible|showing|protruding)\b"
    ),
    (
        rf"\b(?:toned|sculpted|chiseled|chiselled|well-defined|defined) {_BODY}\b|\bphysically fit\b"
        rf"|\b(?:physique|body type|body shape|body mass|body fat|body composition)\b"
    ),
    (
        r"\b(?:average|normal|healthy|ideal|excess|extra|body|low|high|moderate) weight\b|\bweigh(?:s"
        r"|ing)? (?:about |around |approximately |between |roughly )?\d"
    ),
    rf"\b(?:arms?|legs?|limbs?|shoulders|thighs|calves|waist|torso|bod(?:y|ies)|physique) {SEEMS} (?:toned"
    rf"|muscular|slim"
    r"|thin|slender|lean|strong|athletic|well-defined|defined|bulky|large|heavy|thick)\b",
    r"\b(?:slim|thin|slender|lean|skinny|muscular|strong|narrow|thick|bony) (?:waist|legs|arms|limbs|thighs"
    r"|torso|neck)\b"
    r"(?! of (?:the |a )?(?:table|chair|bird))",
    r"\b(?:heavier|larger|bigger|smaller|slimmer|thinner|leaner|lighter) (?:side|end of)\b"
    r"|\b(?:heavier|slimmer|thinner|leaner) than (?:average|most|normal)\b",
    r"\b\d+(?:\.\d+)? ?(?:-| to |-to-)? ?\d* ?(?:lbs?|pounds?|kgs?|kilos?|kilograms?)\b",
    (
        r"\b(?:weight|build)(?: of [\w ]{1,30})? (?:is|appears?(?: to be)?"
        r"|seems?) (?:to be )?(?:\w+ ){0,2}?(?:average|normal|healthy|slim|heavy|light|medium|low|high|large"
        r"|small|thin|(?:around|about|approximately|roughly) (?:\d|average|normal))"
    ),
)

# --- Not telling --------------------------------------------------------------------------------------------------
_SEX = r"(?:a )?(?:(?:fe)?male|(?:wo)?m[ae]n|boys?|girls?|masculine|feminine)"
_WEARER = (
    r"(?:(?:wo)?m[ae]n|gentlem[ae]n|lad(?:y|ie)|kid|child(?:ren)?|bab(?:y|ie)|infant|toddler|boy|girl|teen|boyfriend)"
)
# "A kid's bicycle", "ladies' shoes" are kinds of things; "the man's hat" is somebody's.
_KIND_OF_THING = (
    rf"(?<!the )(?<!this )(?<!that )\b{_WEARER}(?:'s|s')(?: (?!eyes?|hands?|faces?|hair|head|arms?|legs?"
    rf"|fingers?)[\w-]+)? {THING}\b",
    r"\b(?:baby|toddler|infant|boyfriend) (?:cloth(?:es|ing)|shoes|beds?|cribs?|cots?|toys?|jackets?|jeans"
    r"|shirts?|rooms?"
    r"|chairs?|bottles?|blankets?|carriages?|strollers?)\b",
    rf"\b(?:cow|school|play)(?:boy|girl)(?:'?s'?)? (?:[\w-]+ )?{THING}\b",
    rf"\b(?:fire|police|fisher|sports|sales|business|camera|crafts)m[ae]n's (?:[\w-]+ )?{THING}\b",
    rf"\b(?:baby|kid|juvenile|infant|adolescent|mother|father|mama|papa|mommy|male|female|adult|teen|elderly"
    rf"|senior|lady"
    rf"|queen|king|monk|nun) {ANIMAL}\b|\b{ANIMAL} (?:bab(?:y|ies)|kids?|mothers?|father)\b",
    r"\b(?:statue|sculpture) of liberty\b",
    r"\bits (?:own )?(?:mother|father|mom|mum|dad|bab(?:y|ies)|child(?:ren)?)\b",
    # Names, cards, beds and the like.
    r"\b(?:band|group|song|album|movie|film|musical|artist|brand|company|restaurant|called|named|titled|chess"
    r"|bee|burger|rock"
    r"|dairy|drag) (?:called |named )?[\"']?(?:queen|king|prince|princess|madonna)s?\b",
    r"\b(?:king|queen)(?:[- ](?:size[ds]?|beds?|mattress\w*|bee|crab|prawns?|penguins?)|s? of (?:hearts|spades|clubs"
    r"|diamonds|rock|pop))\b",
)
_STOUT = (
    r"(?:obese|overweight|underweight|fat|plump|chubby|chunky|stout|slim|slender|thin|lean|skinny|petite|hefty"
    r"|stocky|portly|round"
    r"|sturdy|curvy|bony|beefy|muscular|rotund|gaunt|scrawny|lanky|malnourished|emaciated)"
)
# "A man with a dog has blue eyes": what follows is said of the man.
_BESIDE_AN_ANIMAL = (
    rf"\b(?:with|and|holding|walking|beside|near|carrying|petting|riding) (?:an?|the|his|her|their|its|two)"
    rf"(?: [\w-]+){{0,2}}? {ANIMAL}\b(?=,? (?:is|are|has|have|looks?|appears?|seems?)\b)"
)
# Taken out of the text before an attribute is looked for.
NEUTRAL: dict[Attribute, tuple[str, ...]] = {
    Attribute.AGE: (
        *_KIND_OF_THING,
        rf"\b{_GROWING} (?:is|are|looks?|seems?|appears?) (?:\w+ )?young\b",
        rf"\b(?:{THING}|photo\w*|pictures?|images?|houses?|towns?|streets?|cameras?|bench(?:es)?|scene|church|furniture)"
        rf" {SEEMS} (?:old|older|aged|mature)\b",
    ),
    # "His or her", "male or female" name both and so tell nothing.
    Attribute.GENDER: (
        r"\b(?:he|him|his|himself) ?(?:or|/) ?(?:she|hers?|herself)\b",
        r"\b(?:she|hers?|herself) ?(?:or|/) ?(?:he|him|his|himself)\b",
        rf"\b{_SEX} ?(?:or|/) ?{_SEX}\b",
        *_KIND_OF_THING,
    ),
    Attribute.EYE_COLOR: (
        _BESIDE_AN_ANIMAL,
        rf"\b{ANIMAL}(?:'s|s')?,? (?:with|has|have|having|whose|and its) (?:[\w-]+,? ){{0,4}}?(?:eyes?"
        rf"|iris(?:es)?)\b",
        rf"\b{ANIMAL}(?:'s|s') (?:[\w-]+,? ){{0,3}}?eyes?\b(?: (?:is|are|appear|look|seem)\b[^.,]*)?",
    ),
    # Frames of glasses and of pictures, the cut of clothes, animals and things are no bodies.
    Attribute.WEIGHT: (
        _BESIDE_AN_ANIMAL,
        rf"\b{_STOUT},? (?:(?!{PERSON}\b)[\w-]+ )?(?:{ANIMAL}|{THING})\b(?!-)",
        rf"\b(?:{ANIMAL}|{THING})(?: that| which)? {SEEMS} (?:[\w-]+ ){{0,2}}?{_STOUT}\b",
        rf"\b{ANIMAL}(?: that| which)? (?:{SEEMS}|has|have|with) [^.,;]*",
        r"\b(?:bi(?:ke|cycle)|motorcycle|painting|picture|mirror|window|door|bed|tent)s?(?: with)?(?: an?"
        r"| its)?(?: [\w-]+)? frame\b",
        r"\b(?:eye)?(?:glasses|spectacles|eyewear|lenses)\b[^.]{0,40}?\bframes?\b",
        (
            r"\b(?:[\w-]+,? ){0,3}?(?:metal|wire|plastic|picture|window|door|glasses|silver|dark|black|round"
            r"|rectangular)[- ]frames?\b"
        ),
        (
            r"\bframes? (?:of|for) (?:the |his |her |their )?(?:eye)?(?:glasses|spectacles)\b|\b(?:that|which"
            r"|to) frames?\b"
        ),
        r"\b(?:slim|regular|loose|relaxed)[- ]?(?:fit(?:ting|ted)?|cut)\b|\bskinny jeans\b",
    ),
}

ATTRIBUTE_PATTERNS: dict[Attribute, tuple[str, ...]] = {
    Attribute.AGE: _AGE,
    Attribute.GENDER: _GENDER,
    Attribute.RACE: _RACE,
    Attribute.EYE_COLOR: _EYE_COLOR,
    Attribute.WEIGHT: _WEIGHT,
}

"""Words that say what a column is: parts of names, ordered scales, what spells a missing entry."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

__all__ = [
    "MISSING_WORDS",
    "MISSING_WORDS_OF_NUMBERS",
    "evidence",
    "has_id",
    "in_order",
    "is_logarithm",
    "is_plural",
    "parts_of_name",
]

MISSING_WORDS = ("", "NA", "na", "Na", "nA", "NaN", "nan", "NAN", "Nan", "<NA>")
"""What is a missing entry wherever it stands, as it always was."""

MISSING_WORDS_OF_NUMBERS = ("?", "null", "n/a", "#n/a", "-", "--", ".", "none", "nil", "missing")
"""What, in small letters, can be nothing else among numbers."""

_OF_NAMES: Mapping[str, str] = {
    "id": "id ids uid uuid guid key index idx rownames rowname rowid rownum unnamed ssn isbn "
    "iban email url phone barcode sku name names surname firstname lastname ticket filename obs "
    "case caseid idno idnum patient patid participant respondent student nr",
    "time": "date datetime timestamp year yr years_of epoch created updated yearbuilt built",
    "angle": "angle bearing heading azimuth azm phase theta phi psi winddir direction dir aspect "
    "hue dihedral orientation wd",
    "proportion": "proportion prop share fraction frac probability prob likelihood percentile",
    "real": "temp temperature tmp tmin tmax tmean tavg atemp dewpoint celsius fahrenheit lat lon "
    "lng long latitude longitude ph log ln logit zscore z diff difference change delta anomaly "
    "return returns residual balance elevation altitude iq utc score scores test exam gpa sat "
    "verbal math reading attitude cor corr correlation cov covariance polity coord easting "
    "northing growth read reading write writing science satv satm verbal quant act gre toefl "
    "pretest posttest temperature mintemp maxtemp meantemp avgtemp lowtemp hightemp",
    "count": "count counts cnt num number nof qty quantity visits visitors children kids "
    "siblings sibsp parch births deaths cases clicks views goals accidents bedrooms bathrooms "
    "rooms beds baths doors cylinders cyl gears gear carb carburetors calls orders purchases "
    "members registered casual users riders rentals hits votes reviews likes followers "
    "pregnancies population people persons events claims admissions arrests trips employees "
    "students citations papers articles publications words letters pages tokens floors stories "
    "dependents parity awards wins losses assists rebounds rings freq frequency fatalities "
    "injuries injured wounded killed incidents offenses crimes homicides murders suicides "
    "failures errors defects docvis cigs cigarettes npreg nkids bdrms runs walks rbi doubles "
    "triples homeruns saves seeds eggs flowers colonies insects tickets apps applications enroll "
    "enrollment pop boys girls males females men women babies adults drivers passengers seats "
    "prisoners inmates firms companies patients soldiers voters jobs farms schools hospitals "
    "strikes drinks beers cups trees shrubs fish birds species plants animals cells nodes tumors "
    "seizures attacks relapses cones cars vehicles households houses families individuals "
    "respondents subscribers viewers audience attendance spectators ballots electors votes staff "
    "workers teachers guests residents inhabitants tourists migrants immigrants refugees games "
    "familysize famsize hhsize engines times matches points penalties cites books courses cards "
    "friends partners sibs breaks requests downloads installs messages emails posts comments bids "
    "transactions shipments parcels units affected infected recovered hospitalizations captures "
    "abundance enrol absences",
    "positive": "age income salary wage wages earnings pay price cost fare fee amount amt "
    "revenue sales sale profit loan debt tax premium charges charge budget expense expenses "
    "weight wt mass height length width breadth depth thickness diameter radius perimeter area "
    "size sqft volume displacement disp engine duration time minutes seconds hours days months "
    "years tenure distance dist mileage miles km speed velocity horsepower hp power wattage mpg "
    "qsec acceleration pressure bp trestbps chol cholesterol glucose insulin bmi triceps carat "
    "gdp calories sodium sugar sugars fat protein fiber carbs vitamins dose concentration density "
    "intensity rate thalach consumption energy rainfall precipitation rain snow wind windspeed "
    "humidity gain loss hours_per_week fnlwgt value worth turnover capital dbh ht hgt wgt bwt lwt "
    "glu len conc gnp cpi unem unemp unemployment output labor labour yield exper experience los "
    "gestation skin skull tail wing chest waist hip kwh voltage current strength load force "
    "lifetime futime stime waiting ratio crime poverty dollars dollar euros delay wait dur hrs yrs "
    "yards",
    "ordinal": "rating rank quality grade level stage severity satisfaction likert mood agree "
    "agreement degree priority importance stars tier pclass frequency_of size_class weekday "
    "dayofweek dow hour hr quarter condition cond overallqual score_class month mnth",
    "category": "code type class cls kind category cat group cluster region zip zipcode postcode "
    "postal state country species target label sex gender race ethnicity color colour job "
    "occupation department dept origin season weather weathersit brand model_name district cp "
    "restecg thal diagnosis plot block site tree replicate rep litter brood batch lot pool farm "
    "firm county treatment treat trt diet variety genotype strain method machine operator rater "
    "judge team status station subject subj",
    "step": "day week wk wave period round trial session visit occasion episode",
    "schooling": "education educ edu schooling motheduc fatheduc",
}  # fmt: skip
_KIND_OF = {word: kind for kind, words in _OF_NAMES.items() for word in words.split()}
_SHORTEST = 2  # letters of a name
_HEADS = ("category", "step", "ordinal")  # kinds that the last word of a name alone speaks for
# A word may run on into one of these, as in familysize; shorter ones end other words, too.
_TAILS = ("count", "positive", "real", "proportion", "schooling")
_LONG_TAIL, _SHORT_TAILS = 5, frozenset(["wage", "cost", "kids", "sibs", "size"])
_NO_PLURALS = frozenset(["series", "news", "diabetes", "looks", "always"])
_NO_IDS = "acid aid bid covid fluid grid humid kid lipid liquid mid paid rapid solid void wid"
_COUNTING = {"num", "number", "n", "nr", "no", "count", "nof", "total", "cnt"}

_SCALES: Sequence[Sequence[str]] = [
    scale.split(",")
    for scale in (
        "very low,low,medium,high,very high",
        "very low,low,moderate,high,very high",
        "very low,low,middle,high,very high",
        "very low,low,mid,high,very high",
        "very low,low,med,high,vhigh",
        "low,normal,high",
        "low,average,high",
        "low,average,medium,high",
        "v-low,low,med,high,v-high",
        "small,med,big",
        "tiny,small,medium,large,huge",
        "xxs,xs,s,m,l,xl,xxl,xxxl",
        "none,mild,moderate,severe,very severe,extreme",
        "absent,mild,moderate,severe",
        "none,low,medium,high",
        "none,some,moderate,a lot,extreme",
        "never,rarely,sometimes,often,always",
        "never,rarely,occasionally,sometimes,often,usually,frequently,always",
        "never,seldom,sometimes,often,always",
        "never,monthly,weekly,daily",
        "no,sometimes,frequently,always",
        "strongly disagree,disagree,somewhat disagree,neutral,somewhat agree,agree,strongly agree",
        "strongly disagree,disagree,neither agree nor disagree,agree,strongly agree",
        "strongly disagree,disagree,undecided,agree,strongly agree",
        "very dissatisfied,dissatisfied,neutral,satisfied,very satisfied",
        "very unlikely,unlikely,neutral,likely,very likely",
        "very unhappy,unhappy,neutral,happy,very happy",
        "not too happy,pretty happy,very happy",
        "very bad,bad,neutral,good,very good",
        "bad,fair,good,very good,excellent",
        "very poor,poor,fair,average,good,very good,excellent",
        "poor,fair,good,very good,premium,ideal",
        "fair,good,very good,premium,ideal",
        "po,fa,ta,gd,ex",
        "poor,average,good,excellent",
        "unacc,acc,good,vgood",
        "worse,same,better",
        "short,medium,long",
        "slow,medium,fast",
        "young,middle,old",
        "child,teenager,adult,senior",
        "cold,cool,mild,warm,hot",
        "dry,damp,wet",
        "light,medium,heavy",
        "bronze,silver,gold,platinum",
        "basic,standard,premium",
        "beginner,intermediate,advanced,expert",
        "junior,middle,senior",
        "junior,mid,senior,lead",
        "freshman,sophomore,junior,senior",
        "first,second,third,fourth,fifth",
        "1st,2nd,3rd,4th,5th,6th",
        "primary,secondary,tertiary",
        "elementary,middle,high,college,graduate",
        "preschool,primary,secondary,bachelor,master,doctorate",
        "high school,associate,bachelor,master,phd",
        "high school,bachelor,master,phd",
        "high school,college,bachelor,master,doctor",
        "some high school,high school,some college,associate's degree,bachelor's degree,"
        "master's degree",
        "preschool,1st-4th,5th-6th,7th-8th,9th,10th,11th,12th,hs-grad,some-college,assoc-voc,"
        "assoc-acdm,bachelors,masters,prof-school,doctorate",
        "below college,college,bachelor,master,doctor",
        "thin,normal,overweight,obese",
        "underweight,normal,overweight,obese",
        "a,b,c,d,e,f,g",
        "mon,tue,wed,thu,fri,sat,sun",
        "mon,tues,wed,thurs,fri,sat,sun",
        "mon,tue,wed,thur,fri,sat,sun",
        "monday,tuesday,wednesday,thursday,friday,saturday,sunday",
        "jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec",
        "january,february,march,april,may,june,july,august,september,october,november,december",
        "q1,q2,q3,q4",
        "i,ii,iii,iv,v",
        "i1,si2,si1,vs2,vs1,vvs2,vvs1,if",
        "negative,neutral,positive",
        "minor,moderate,major,critical",
        "minor,major,critical",
        "low,medium,high,critical",
        "trivial,minor,major,critical,blocker",
        "lower,middle,upper",
        "third,second,first",
    )
]
# Letters alone are a scale only where a name says so: blood groups are letters, too.
_NEED_NAME = {"a,b,c,d,e,f,g": ("grade", "rating", "class", "band", "mark"),
              "i,ii,iii,iv,v": ("stage", "class", "grade", "level", "type")}  # fmt: skip
_AMOUNT = r"\d[\d,]*(?:\.\d+)?"
_BAND = re.compile(
    rf"^\s*(?P<below>[<≤]=?|under |below |up to )?\s*(?P<sign>\$)?(?P<low>{_AMOUNT})\s*[kK]?\s*"
    rf"(?:(?P<to>-|–|to)\s*\$?(?P<high>{_AMOUNT})\s*[kK]?)?(?P<above>[+–-]| ?and over| ?or more)?"
    rf"\s*(?P<unit>[a-zA-Z%$]*)\s*$|^\s*(?P<over>[>≥]=?|over |above |more than )\s*\$?"
    rf"(?P<least>{_AMOUNT})\s*[kK]?\s*[a-zA-Z%$]*\s*$"
)
_NOTHING = re.compile(r"(none|no|never|nothing|do not|does not|did not|don't)\b.*")
_MOST_BANDS = 25
_FEWEST = 3  # levels of a scale


def parts_of_name(name: str) -> list[str]:
    """Returns the words of a column's name, in small letters.

    Example:
        >>> parts_of_name("sepal length (cm)"), parts_of_name("numRooms_2")
        (['sepal', 'length', 'cm'], ['num', 'rooms', '2'])
    """
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-zß-ÿ]+|\d+", name)
    return [part.lower() for part in found]


def evidence(name: str) -> str:
    """Returns what the name of a column speaks for, if for anything.

    A kind, or ``step``, a place in a sequence of days or rounds, or ``schooling``, in years or
    levels. The last word that says something counts, as it is what the others are about, but for
    words of counting, which come first, and of the logarithm.

    Example:
        >>> evidence("birth_year"), evidence("customer_id"), evidence("num_rooms"), evidence("x3")
        ('time', 'id', 'count', '')
    """
    parts = parts_of_name(name)
    if parts and parts[0] in _COUNTING and (len(parts) > 1 or parts[0] != "no"):
        # "number" alone counts things, "n" of one letter may be anything.
        return "count" if len(parts) > 1 or parts[0] in ("count", "cnt") else ""
    if {"log", "ln", "log10", "logit"} & set(parts) or (parts[:1] == ["pc"] and len(parts) == 2):
        return "real"
    if "".join(parts) in _KIND_OF:
        return _KIND_OF["".join(parts)]
    words = [part for part in parts if not part.isdigit()]
    known = [part for part in reversed(words) if part in _KIND_OF]
    if not known:
        return _of_tail(words[-1]) if words else ""
    found = _KIND_OF[known[0]]
    # The season of a porch is no season, and the 42nd week of something no week.
    if found in _HEADS and known[0] != words[-1] and "of" not in words:
        return ""
    return "" if found == "step" and len(words) < len(parts) else found


def _of_tail(word: str) -> str:
    """What an unknown word speaks for: a plural, a square, or another one that runs on."""
    if is_plural(word) and (of_one := _KIND_OF.get(word[:-1])) in ("positive", "real"):
        return of_one
    if word.endswith("sq") and _KIND_OF.get(word[:-2]) == "positive":
        return "positive"
    for size in range(len(word) - 1, _SHORTEST, -1):
        tail = word[-size:]
        long = size >= _LONG_TAIL or tail in _SHORT_TAILS
        if long and _KIND_OF.get(tail) in _TAILS:
            return _KIND_OF[tail]
    return ""


def is_plural(name: str) -> bool:
    """Returns whether the last word of a name is a plural.

    Example:
        >>> is_plural("num_rooms"), is_plural("strikeOuts"), is_plural("gas"), is_plural("class")
        (True, True, False, False)
    """
    last = next((part for part in reversed(parts_of_name(name)) if not part.isdigit()), "")
    if last in _NO_PLURALS or last.endswith("ics"):
        return False
    return len(last) > 3 and last.endswith("s") and last[-2] not in "aiosu"


def has_id(name: str) -> bool:
    """Returns whether a name ends in an id that is no part of a word.

    Example:
        >>> has_id("schoolid"), has_id("paid"), has_id("id")
        (True, False, False)
    """
    last = (parts_of_name(name) or [""])[-1]
    return len(last) > 2 and last.endswith("id") and last not in _NO_IDS.split()


def is_logarithm(name: str, others: Collection[str]) -> bool:
    """Returns whether a name is that of an amount, or of another column, after an l.

    Example:
        >>> is_logarithm("lwage", []), is_logarithm("lavg", ["avg"]), is_logarithm("lake", [])
        (True, True, False)
    """
    if name[:2] == "ln" and len(name) > _SHORTEST:
        return True
    rest = name[1:]
    if name[:1] != "l" or len(rest) < _SHORTEST:
        return False
    return rest in others or _KIND_OF.get(rest) in ("positive", "count")


def in_order(words: Sequence[str], name: str = "") -> list[str] | None:
    """Returns words from the lowest to the highest, if they are levels of a known scale.

    Example:
        >>> in_order(["High", "low", "mid"]), in_order(["red", "blue", "green"])
        (['low', 'mid', 'High'], None)
        >>> in_order(["25-34", "<18", "65+", "18-24"])
        ['<18', '18-24', '25-34', '65+']
    """
    plain = {word: " ".join(word.lower().replace("_", " ").split()) for word in words}
    if len(set(plain.values())) < len(words):
        return None
    for scale in _SCALES if len(words) >= _FEWEST else ():
        places = {level: at for at, level in enumerate(scale)}
        needed = _NEED_NAME.get(",".join(scale))
        if needed and not set(needed) & set(parts_of_name(name)):
            continue
        if all(each in places for each in plain.values()):
            return sorted(words, key=lambda word: places[plain[word]])
    return _bands(words, plain)


def _bands(words: Sequence[str], plain: Mapping[str, str]) -> list[str] | None:
    """Bands of numbers in order, such as 0, 1, 2, 3+, below them one word for none of them."""
    found = {word: _BAND.match(word) for word in words}
    nothing = [word for word, band in found.items() if band is None]
    bands = {word: band for word, band in found.items() if band is not None}
    if len(words) > _MOST_BANDS or len(bands) < 2 or len(nothing) > 1:
        return None
    if nothing and not _NOTHING.fullmatch(plain[nothing[0]]):
        return None
    units = {band["unit"] for band in bands.values() if band["unit"]}
    marks = ("below", "to", "above", "over")
    marked = any(band[mark] for band in bands.values() for mark in marks)
    # A letter after some of the numbers alone, as in 89A, makes codes of them.
    measured = all(band["unit"] or band["sign"] for band in bands.values())
    if len(units) > 1 or not (marked or measured):
        return None
    if len(words) < _FEWEST and not all(any(b[mark] for mark in marks) for b in bands.values()):
        return None
    return nothing + sorted(bands, key=lambda word: _edge(bands[word]))


def _edge(band: re.Match[str]) -> tuple[float, float]:
    """Where a band of numbers begins, to sort by."""
    if band["over"] is not None:
        return float(band["least"].replace(",", "")), 1.0
    low = float(band["low"].replace(",", ""))
    return (low, -1.0) if band["below"] else (low, 1.0 if band["above"] else 0.0)

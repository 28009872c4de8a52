"""Words that say what a column is: parts of names, ordered scales, what spells a missing entry."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["MISSING_WORDS", "MISSING_WORDS_OF_NUMBERS", "evidence", "in_order", "parts_of_name"]

MISSING_WORDS = ("", "NA", "na", "Na", "nA", "NaN", "nan", "NAN", "Nan", "<NA>")
"""What is a missing entry wherever it stands, as it always was."""

MISSING_WORDS_OF_NUMBERS = ("?", "null", "n/a", "#n/a", "-", "--", ".", "none", "nil", "missing")
"""What, in small letters, can be nothing else among numbers."""

_OF_NAMES: Mapping[str, str] = {
    "id": "id ids uid uuid guid key index idx rownames rowname rowid rownum unnamed ssn isbn iban "
    "email url phone barcode sku name names surname firstname lastname ticket filename",
    "time": "date datetime timestamp year yr years_of epoch created updated yearbuilt built",
    "angle": "angle bearing heading azimuth azm phase theta phi psi winddir direction dir aspect "
    "hue dihedral orientation wd",
    "proportion": "proportion prop share fraction frac probability prob likelihood percentile",
    "real": "temp temperature tmp tmin tmax tmean tavg atemp dewpoint celsius fahrenheit lat lon "
    "lng long latitude longitude ph log ln logit zscore z diff difference change delta anomaly "
    "return returns residual balance elevation altitude pc iq utc",
    "count": "count counts cnt num number nr nof qty quantity visits visitors children kids "
    "siblings sibsp parch births deaths cases clicks views goals accidents bedrooms bathrooms "
    "rooms beds baths doors cylinders cyl gears gear carb carburetors calls orders purchases "
    "members registered casual users riders rentals hits votes reviews likes followers "
    "pregnancies population people persons events claims admissions arrests trips employees "
    "students citations papers articles publications words letters pages tokens floors stories "
    "dependents parity awards wins losses assists rebounds rings",
    "positive": "age income salary wage wages earnings pay price cost fare fee amount amt revenue "
    "sales sale profit loan debt tax premium charges charge budget expense expenses weight wt "
    "mass height length width breadth depth thickness diameter radius perimeter area size sqft "
    "volume displacement disp engine duration time minutes seconds hours days months years tenure "
    "distance dist mileage miles km speed velocity horsepower hp power wattage mpg qsec "
    "acceleration pressure bp trestbps chol cholesterol glucose insulin bmi triceps carat gdp "
    "calories sodium sugar sugars fat protein fiber carbs vitamins dose concentration density "
    "intensity frequency rate thalach consumption energy rainfall precipitation rain snow wind "
    "windspeed humidity gain loss hours_per_week fnlwgt value worth turnover capital",
    "ordinal": "rating rank quality grade level stage severity satisfaction likert mood agree "
    "agreement education edu degree priority importance stars tier pclass frequency_of size_class "
    "month mnth weekday dayofweek dow hour hr quarter condition cond overallqual score_class",
    "category": "code type class cls kind category cat group cluster region zip zipcode postcode "
    "postal state country city species target label sex gender race ethnicity color colour job "
    "occupation department dept origin season weather weathersit brand model_name district cp "
    "restecg thal diagnosis",
}  # fmt: skip
_KIND_OF = {word: kind for kind, words in _OF_NAMES.items() for word in words.split()}
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
_BAND = re.compile(
    r"^\s*(?P<below>[<≤]=?|under |below |up to )?\s*\$?(?P<low>\d[\d,.]*)\s*[kK]?\s*"
    r"(?:(?:-|–|to)\s*\$?(?P<high>\d[\d,.]*)\s*[kK]?)?(?P<above>\+| ?and over| ?or more)?"
    r"\s*[a-zA-Z%$]*\s*$|^\s*(?P<over>[>≥]=?|over |above |more than )\s*\$?(?P<least>\d[\d,.]*)"
    r"\s*[kK]?\s*[a-zA-Z%$]*\s*$"
)  # fmt: skip
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
    """Returns the kind that the name of a column speaks for, if it speaks for one.

    The last word that says something counts, as it is what the others are about, but for words of
    counting, which come first, and of the logarithm.

    Example:
        >>> evidence("birth_year"), evidence("customer_id"), evidence("num_rooms"), evidence("x3")
        ('time', 'id', 'count', '')
    """
    parts = parts_of_name(name)
    if parts and parts[0] in _COUNTING and (len(parts) > 1 or parts[0] != "no"):
        # "number" alone counts things, "n" of one letter may be anything.
        return "count" if len(parts) > 1 or parts[0] in ("count", "cnt") else ""
    if parts and parts[0] in ("log", "ln"):
        return "real"
    if "".join(parts) in _KIND_OF:
        return _KIND_OF["".join(parts)]
    return next((_KIND_OF[part] for part in reversed(parts) if part in _KIND_OF), "")


def in_order(words: Sequence[str], name: str = "") -> list[str] | None:
    """Returns words from the lowest to the highest, if they are levels of a known scale.

    Example:
        >>> in_order(["High", "low", "mid"]), in_order(["red", "blue", "green"])
        (['low', 'mid', 'High'], None)
        >>> in_order(["25-34", "<18", "65+", "18-24"])
        ['<18', '18-24', '25-34', '65+']
    """
    plain = {word: " ".join(word.lower().replace("_", " ").split()) for word in words}
    if len(set(plain.values())) < max(len(words), _FEWEST):
        return None
    for scale in _SCALES:
        places = {level: at for at, level in enumerate(scale)}
        needed = _NEED_NAME.get(",".join(scale))
        if needed and not set(needed) & set(parts_of_name(name)):
            continue
        if all(each in places for each in plain.values()):
            return sorted(words, key=lambda word: places[plain[word]])
    bands = {word: _BAND.match(word) for word in words}
    if all(bands.values()) and any(not re.fullmatch(r"[\d.,\s]+", word) for word in words):
        return sorted(words, key=lambda word: _edge(bands[word]))
    return None


def _edge(band: re.Match[str] | None) -> tuple[float, float]:
    """Where a band of numbers begins, to sort by."""
    assert band is not None
    if band["over"] is not None:
        return float(band["least"].replace(",", "").rstrip(".")), 1.0
    low = float(band["low"].replace(",", "").rstrip("."))
    return (low, -1.0) if band["below"] else (low, 1.0 if band["above"] else 0.0)

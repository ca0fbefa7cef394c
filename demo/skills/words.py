"""Word lists that several skills share."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    """
    Anna Ben Clara David Emma Felix Grace Hugo Ida Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tom Uma Victor
    Wendy Yara Zoe Alice Bob Carol Dan Eva Frank Gina Henry Iris John Kim Lucy Mark Nina Oscar Peter Ruth Sara
    Tina Ali Amir Aisha Chen Diego Elena Fatima Ivan Jin Kofi Lena Mina Omar Priya Ravi Sofia Tariq Yuki Max Mia
    Liam Ella Adam Julia Karl Laura Nora Simon Vera Alex Robin Jamie Chris
    """
)
THINGS = _words(
    """
    apples books coins pencils stones shells cards eggs stamps marbles cookies oranges flowers keys balls cups
    stickers buttons toys pears candies bottles boxes hats
    """
)
CITIES = _words(
    """
    Paris London Berlin Rome Madrid Vienna Lisbon Oslo Prague Dublin Athens Warsaw Tokyo Beijing Cairo Lima
    Delhi Seoul Sydney Boston Chicago Denver Toronto Helsinki Zurich Geneva Milan Munich Hamburg Porto Kyoto
    Mumbai Nairobi Lagos Havana Bogota Santiago Istanbul Moscow Kyiv Budapest Brussels Amsterdam Copenhagen
    Stockholm Barcelona Naples Seattle Dallas Houston Miami Dubai Singapore Bangkok Hanoi Manila
    """
)
COLORS = _words(
    """
    red blue green yellow orange purple pink brown black white gray silver gold
    """
)
ANIMALS = _words(
    """
    fox bear owl cat dog mouse rabbit turtle frog horse lion tiger wolf hen duck goat sheep whale dolphin
    penguin hedgehog squirrel crow bee ant snail deer otter dragon robot
    """
)
FOODS = _words(
    """
    pizza soup rice bread cheese pasta cake salad apples honey curry tea pancakes noodles berries
    """
)
SPELLABLE = _words(
    """
    cat dog sun moon star tree house water river bread apple banana orange lemon cherry grape peach table chair
    window door garden flower grass stone mountain forest ocean island bridge train plane boat ship car truck
    wheel engine school teacher student book paper pencil letter word story music song dance paint color green
    blue yellow purple black white brown pink silver golden happy sad angry tired sleepy hungry thirsty brave
    quiet loud quick slow small large tiny giant short long deep wide narrow round square circle triangle line
    number zero one two three four five six seven eight nine ten eleven twelve twenty hundred thousand first
    second third week month year today tomorrow morning evening night winter spring summer autumn snow rain wind
    cloud storm thunder fire smoke earth sand beach wave fish shark whale dolphin turtle frog snake lizard
    rabbit mouse horse sheep goat cow pig hen duck goose eagle owl crow robin bear wolf fox lion tiger monkey
    elephant giraffe zebra camel kangaroo penguin butterfly spider mother father sister brother uncle aunt
    cousin friend neighbor doctor nurse farmer baker driver pilot sailor singer king queen prince castle tower
    village city street road market shop kitchen bedroom pillow blanket mirror clock lamp candle basket bottle
    cup plate spoon fork knife pizza soup salad cheese butter honey sugar salt pepper coffee tea milk juice
    cookie cake candy chocolate potato tomato carrot onion garlic pumpkin mushroom rice bean corn shirt shoe
    sock hat coat glove scarf button pocket ring watch computer keyboard screen robot rocket planet space world
    country language kernel server token model memory valve pipe turbine penstock hello world please thanks
    banana strawberry cucumber friend because people little animal yellow
    """
)

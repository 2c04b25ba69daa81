"""Words and patterns of the generated sample: invented names, epithets, similes and scenes."""

from __future__ import annotations

HEROES = {
    "Torvane": (
        "long-striding *",
        "*, the son of Ambrec,",
        "*, breaker of shields,",
        "grey-eyed *",
    ),
    "Melisk": ("patient *", "* of the quiet oars", "*, whom the ferrymen love,", "lean *"),
    "Adrunor": ("*, lord of the salt towers,", "broad-handed *", "*, heir of Quessen,", "proud *"),
    "Keldane": ("*, fleetest of the hill men,", "laughing *", "* of the double bow", "young *"),
    "Ostremar": ("white-haired *", "*, the counsellor,", "*, father of nine,", "slow-speaking *"),
    "Varrick": ("*, keeper of mares,", "iron-hearted *", "*, the son of Delmore,", "dark *"),
    "Ilbren": ("*, last of the reed kings,", "gentle *", "* of the copper helm", "wary *"),
    "Sarnoth": ("*, the oath-breaker,", "grim *", "* of the tall ships", "restless *"),
    "Peldrin": ("*, brother of the drowned,", "silent *", "*, hewer of cedar,", "fair-bearded *"),
    "Hauvent": ("*, the smith's foster son,", "great-voiced *", "* of the seven scars", "bold *"),
    "Corimund": ("*, ruler of the orchards,", "gift-giving *", "*, tamer of bulls,", "aged *"),
    "Nethery": ("*, the lame spearman,", "cunning *", "* of the northern marsh", "swift *"),
}
QUEENS = {
    "Ysolene": ("*, mistress of the looms,", "clear-browed *", "*, the daughter of Corimund,"),
    "Maravet": ("*, lady of the walled garden,", "faithful *", "*, whose word is kept,"),
    "Thessaly Orn": ("*, the widow of the fleet,", "stern *", "*, wise in herbs,"),
    "Brenna Cole": ("*, the singer,", "bright-sandalled *", "*, guest of the river folk,"),
    "Elowin": ("*, the weaver of sails,", "soft-spoken *", "*, sister of Keldane,"),
}
GODS = {
    "Ombra": ("*, the mother of tides,", "veiled *", "*, who counts the stars,"),
    "Haldur": ("*, the cloud-herd,", "*, lord of the anvil sky,", "deep-throated *"),
    "Sithe": ("*, the reaper of ships,", "cold *", "*, who walks before winter,"),
    "Lumenar": ("*, giver of the morning,", "gold-crowned *", "*, the watcher of roads,"),
    "Vesper Rul": ("*, the bringer of sleep,", "dim-winged *", "*, friend of the weary,"),
}
PLACES = (
    "Quessen", "Harrowmere", "the isle of Tamber", "Low Aldry", "the reed delta", "Carrow Head",
    "Ninefold Gate", "the pastures of Ulm", "Selvedge", "the black headland", "Orrin's Ford",
    "the marble quays of Dorrance",
)  # fmt: skip

GRAMMAR = {
    "dawn": (
        "when {morning} came over {height} with {light} on her shoulders,",
        "now {morning} had opened her door above {height},",
        "as soon as {morning} drew the dark away from {height},",
        "while {light} still slept in the valleys below {height},",
    ),
    "morning": ("the grey morning", "early dawn", "the day's first daughter", "the pale sun"),
    "height": ("the eastern cliffs", "the hill of thorns", "the long sea wall", "the snow fields"),
    "light": ("a saffron cloak", "a thin red fire", "the milk of daylight", "a crown of mist"),
    "rise": (
        "{A} rose from his bed and bound {gear} upon him.",
        "{A} called his men from sleep and counted them by name.",
        "{A} stood alone at the {ship} and looked toward {place}.",
        "{A} gave {gift} to the herald and bade him run to {place}.",
    ),
    "gear": ("his bronze", "the studded belt", "a wolfskin and a sword", "his father's helm"),
    "ship": ("curved ship", "tarred ship", "ship of thirty oars", "ship with the painted eyes"),
    "gift": (
        "a bowl of beaten silver", "two mares of one colour", "a cloak dyed with murex",
        "a cup with doves on the rim", "three bars of iron", "a tripod never touched by flame",
        "seven ewes and a ram", "an ivory bit",
    ),
    "weapon": ("ash spear", "notched sword", "heavy stone", "bright javelin", "axe of two edges"),
    "part": ("the shoulder", "the throat", "the rim of the shield", "the thigh", "the belt"),
    "beast": ("lion", "boar", "grey wolf", "bull", "sea eagle", "hunting dog", "she-bear"),
    "prey": ("a fold of lambs", "a heifer", "the scattered deer", "the herdsman", "her own cubs"),
    "season": ("in the hungry month", "after the first snow", "at harvest", "in the spring floods"),
    "wind": ("the north wind", "a squall from the sea", "the dry wind of summer", "a night gale"),
    "thing": ("barley", "the tall pines", "loose sand", "dead leaves", "the smoke of an altar"),
    "simile": (
        "as a {beast} {season} comes down upon {prey},\n"
        "and neither {fear} nor {fear} turns it back,\nso {a} came on through the press of men.",
        "as {wind} {season} drives {thing} before it,\n"
        "now this way and now that, and nothing stands,\nso were the ranks divided before {A}.",
        "as when a {worker} {season} bends over his {craft},\n"
        "and the {sound} goes out across the fields,\n"
        "so rang the {metal} under the blows of {a}.",
        "like {thing} under {wind} were the spears of {place},\n"
        "and like a {beast} among them moved {A}.",
    ),
    "fear": ("stones", "the shouting of men", "torches", "the cold rain", "hunger", "the dogs"),
    "worker": ("smith", "woodcutter", "potter", "shipwright", "mason"),
    "craft": ("anvil", "wheel", "oak beam", "wedge", "unfinished keel"),
    "sound": ("noise of it", "steady beat", "echo", "song of the iron"),
    "metal": ("bronze", "helm", "hollow shield", "armour"),
    "blow": (
        "{a} threw his {weapon} and struck {b} on {part},\nand {wound}.",
        "first {A} cast his {weapon}, but {g} turned it aside,\n"
        "and it stood quivering in {ground}.",
        "{b} leapt forward with a {weapon} and missed,\nand {a} answered him above {part};\n"
        "{wound}.",
        "then {B} took up a {weapon} that two men now could not carry,\n"
        "and {a} met it with {part} and did not fall.",
    ),
    "wound": (
        "darkness came down over his eyes", "he fell as a poplar falls beside the water",
        "the strength went out of his knees", "his armour cried aloud upon the stones",
        "he sat down in the dust and held the wound", "his friends drew him back among the carts",
    ),
    "ground": ("the wet earth", "an olive stump", "the wheel of a chariot", "the bank of the ford"),
    "vocative": ("Friend", "Stranger", "Son of my old companion", "Man of {place}", "Captain"),
    "say": (
        "then {A} answered him, and his voice was {voice}:",
        "and {A} looked at him under heavy brows and said:",
        "but {a} took his hand and spoke these {kind} words:",
        "to him in turn {A} made this reply:",
    ),
    "voice": ("low", "like a bell", "hoarse with grief", "steady as an oar", "bright with anger"),
    "kind": ("winged", "careful", "bitter", "friendly", "crooked"),
    "plea": (
        "was it {trouble} that drove you over the water to {land}?",
        "give back {gift}, and there will be no more talk of {trouble}.",
        "no man who eats bread has escaped {trouble} for ever.",
        "at {land} I heard an old man boast of {gift} and of {trouble}.",
        "if {g} had willed it, we should both be lying beside {ground}.",
        "bring {animal} to the altar, for {g} is slow to forget {trouble}.",
        "sit by my fire, and tell me of {trouble} when you have eaten.",
        "I had a brother once, and {trouble} took him at {land}.",
        "the {ship} is ready, and the crew will not wait for {trouble}.",
    ),
    "trouble": (
        "war", "the anger of {g}", "an ill-kept oath", "the long famine", "the malice of {b}",
        "shipwreck", "a dream sent by {g}", "the quarrel over {gift}", "old age",
    ),
    "answer": (
        "do not speak to me of {trouble}, for {g} alone disposes of it.",
        "rather would I be a hired man at {land} than live with {trouble}.",
        "my father took {gift} from the men of {land}, and paid for it with {trouble}.",
        "let {b} send {gift} to the tents, and then let him speak of {trouble}.",
        "take {gift}, and let us part without a blow.",
        "not for {gift}, nor for all the cattle of {land}, would I turn back.",
        "hear the truth: {b} lies beside {ground} and has no tomb.",
        "tomorrow, when the tide allows, we shall see whom {g} loves.",
    ),
    "close": (
        "so he spoke, and {hearers} {reaction}.",
        "these were his words, and {hearers} {reaction}.",
        "he ended there, and {hearers} {reaction}.",
    ),
    "hearers": ("the elders", "all who heard him", "the young men", "the sons of {place}", "{b}"),
    "reaction": (
        "kept silence for a time", "struck the ground with their staffs", "wept openly",
        "laughed, though without joy", "murmured like bees in a wall", "praised the saying",
    ),
    "land": PLACES,
    "company": (
        "from {place} came {A} with {number} ships,\nand the men who draw {water} sat at the oars.",
        "{A} led those who hold {place} and plough its {soil} fields;\n"
        "{number} ships followed him, and in the first he carried {gift}.",
        "next were the people of {place}, rich in {wealth},\n"
        "and over them {b} was captain, and {A} after him.",
        "they that dwell beside {water} obeyed {B},\n"
        "and with him were {number} ships, all black with pitch.",
    ),
    "number": ("nine", "twelve", "twenty", "thirty", "forty", "sixteen", "eighty", "only three"),
    "water": ("the cold river Ammer", "the twin springs", "the marsh of Nethery", "the salt lake"),
    "soil": ("stony", "red", "well-watered", "wind-beaten", "deep"),
    "wealth": ("pigeons", "vines", "horses", "flax", "tin", "honey", "fish and salt"),
    "meal": (
        "they {slew} {animal} and burned the thigh bones for {g}.",
        "a maid poured water from a silver jug over their hands,\n"
        "and the steward set {food} before them.",
        "they mixed the wine, two parts of water and one of fire,\n"
        "and poured the first drops upon {ground} for {G}.",
        "when they had put away the desire for {food},\n"
        "the singer took the harp down from its peg.",
    ),
    "slew": ("brought in and slew", "chose out and slew", "drove up and slew"),
    "animal": ("a steer of five years", "a black ram", "two fat swine", "a yearling goat"),
    "food": ("bread and curds", "roasted meat", "figs and new cheese", "barley cakes and wine"),
    "song": (
        "he sang of {a} and the winter at {place},\nand how {g} hid the road with {light}.",
        "he sang the quarrel of {a} and {b},\nthat began with {gift} and ended in {trouble}.",
        "he sang of {Q} and the {ship},\nand how she waited {number} years beside {water}.",
    ),
    "sea": (
        "they dragged the {ship} down to the water and stepped the mast.",
        "{wind} filled the sail, and the dark wave sang about the keel.",
        "for {number} days they saw neither land nor bird.",
        "on the tenth day they came to {land} and let the anchor stones go.",
        "{G} was angry and let loose {wind} upon them.",
        "the oars were torn from their hands, and the steersman fell from the stern.",
        "then {a} lashed himself to the mast and called upon {g}.",
        "the salt dried white upon their arms, and they thought of {food}.",
    ),
    "lament": (
        "\"{a}, you have left me in a house too wide for one.",
        "\"no one now will bring {gift} to the door and call my name.",
        "\"would that {wind} had carried me past {land} on the day I was born!",
    ),
    "lament2": (
        "the child asks for you at evening, and I tell him of {land}.",
        "at {land} they still speak of {gift} that you gave to {b}.",
        "who will stand against {trouble}, now that the door is open to all?",
        "I have wound the thread, and I have no one to weave for.",
        "not {g}, nor {trouble}, shall make me forget you.",
        "the dogs lie by your chair, and they will not eat.",
    ),
    "women": (
        "so she spoke in her grief, and the women {reaction}.",
        "so {Q} lamented, and {hearers} {reaction}.",
        "weeping she said it, and far off in {land} {a} heard it in a dream.",
        "with that she fell silent, and {g} sent her {weather}.",
    ),
    "weather": ("sleep", "a sign of birds", "a little rain", "the scent of {land}"),
    "watch": (
        "{G} saw it from {height} and {feeling}.",
        "but {G} had other counsel, and {feeling}.",
        "none of this was hidden from {G}, who {feeling}.",
    ),
    "feeling": (
        "took thought for {b}", "shook the dew from her cloak", "weighed the two fates",
        "sent a hawk upon the left hand", "put strength into the knees of {a}",
        "pitied the mortals",
    ),
}  # fmt: skip

SCENES = (
    "{dawn}\n{rise}\n{rise}\n{watch}",
    "{simile}\n{blow}\n{blow}\n{watch}\n{blow}",
    "{blow}\n{simile}\n{close}",
    '{say}\n"{vocative}, {plea}\n{plea}\n{answer}"\n{close}',
    '{say}\n"{vocative}, {answer}\n{plea}\n{plea}\n{answer}"\n{close}\n{watch}',
    "{company}\n{company}",
    "{meal}\n{meal}\n{song}\n{song}\n{close}",
    "{sea}\n{sea}\n{watch}\n{sea}\n{sea}",
    "{dawn}\n{Q} went up to the roof and cried:\n{lament}\n"
    '{lament2}\n{lament2}\n{lament2}"\n{women}',
    "{dawn}\n{sea}\n{sea}\n{simile}",
    "{watch}\n{simile}\n{simile}\n{blow}\n{blow}\n{blow}",
)
"""Scenes: each is one paragraph; slots in capitals are the cast with an epithet."""

"""The words of generated facts; each, with the space before it, is one token of the tokenizer."""

_KEY_TEXT = """
amber anchor apple arrow autumn badge bamboo banner barrel basket beacon bell birch blanket
bottle branch brass bridge bronze bucket butter button cabin cactus camel candle canvas canyon
carpet castle cedar chain chalk cherry chisel cinder circle clay cliff clover cobalt coffee
comet copper coral cotton cradle crane crater cricket crown crystal curtain dagger daisy
desert diamond dolphin dragon drum eagle ember emerald engine falcon feather fiddle flint
forest fossil fountain fox garden garnet ginger glacier glove granite grape hammer harbour
harvest hazel heather helmet heron honey horizon iris island ivory jacket jade jasmine kettle
kitten ladder lagoon lantern laurel leaf lemon lily lion locket lotus magnet mango maple
marble meadow mirror mitten moon mosaic mountain needle nettle nutmeg oak oasis ocean olive
onion opal orange orchid otter oyster paddle palm panther paper parrot pearl pebble pepper
piano pigeon pillow pine planet plum pocket poppy prairie prism pumpkin quartz rabbit raven
ribbon river robin rocket rose ruby saddle saffron salmon sapphire scarlet shadow shell
shield silk silver spider spruce star steel stone summer swan table thistle thunder tiger
timber topaz torch tower trumpet tulip tunnel turtle valley velvet violet violin walnut wheel
willow window winter wolf yarrow zebra
"""

_VALUE_TEXT = """
Athens Berlin Boston Brazil Bristol Cairo Canada Chicago Cuba Cyprus Dallas Delhi Denmark
Dover Dublin Egypt Finland Florence France Geneva Genoa Greece Havana Hungary Iceland India
Ireland Italy Japan Jordan Kenya Kyoto Lima Lisbon London Madrid Malta Memphis Mexico Milan
Moscow Munich Naples Nepal Norway Oslo Oxford Panama Paris Persia Peru Poland Portugal Prague
Rome Russia Scotland Seville Siena Spain Sweden Sydney Texas Tokyo Toledo Tunis Turin Turkey
Venice Vienna Wales Warsaw York Zurich
"""

KEYS = tuple(_KEY_TEXT.split())
VALUES = tuple(_VALUE_TEXT.split())

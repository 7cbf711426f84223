"""Numbers that several rooms share."""

SAMPLE_RATE = 16000  # Hz, of all audio once it is read
NUM_BINS = 80  # of filterbanks, at 100 Hz
WINDOW = 400  # samples of a filterbank frame, 25 ms
SHIFT = 160  # samples between the starts of two, 10 ms
# Frames joined at once on a greedy way through a transducer. Nearly all symbols are blanks; with many more,
# joins would be computed that are not needed. Our choice.
LOOK_AHEAD = 8

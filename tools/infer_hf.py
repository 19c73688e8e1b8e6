"""Generates a user's next item with torch and transformers alone.

    python tools/infer_hf.py --model=DIR --history=a.png,b.png \
        --titles='red cup|blue cup' --out=DIR

Takes the flags of tools/generate.py, and --device; --help lists them. DIR gets
0.png, 1.png, ... and sheet.png, or with --mode=text answer.txt. --dump keeps
the arrays behind them: prompt_ids.npy [T], pixel_values.npy [n, 3, S, S],
codes.npy [num, I] and images.npy [num, S, S, 3], or answer_ids.npy.

To use it elsewhere copy this file and the folder hf_inference next to it.
"""

from hf_inference import command

if __name__ == "__main__":
  command.main(description=__doc__)

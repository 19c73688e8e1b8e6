"""SFT and RL: their step, and the plan and loop that they share; may import
evals.
"""

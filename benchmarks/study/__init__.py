"""The ablation: its data, arms, training, and what is said of them; ``run_study.py`` beside this folder runs it."""

"""An environment of a user's, registered with a class as Gymnasium's documentation does it."""

import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

gymnasium.register("own/Pendulum-v0", entry_point=PendulumEnv, max_episode_steps=20)

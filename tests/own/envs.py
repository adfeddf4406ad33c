"""Environments of a user's, registered with a class as Gymnasium's documentation does it."""

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.spaces import Box


class Clock(gymnasium.Env):
    """The observation is the Unix time, which float32 cannot tell from the next second."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = np.array([1.7e9])
        return self.time, {}

    def step(self, action):
        self.time = self.time + 1
        return self.time, 0.0, False, False, {}


gymnasium.register("own/Pendulum-v0", entry_point=PendulumEnv, max_episode_steps=20)
gymnasium.register("own/Clock-v0", entry_point=Clock, max_episode_steps=20)

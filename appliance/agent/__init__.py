"""The agent: model, tools, environment, loop. The same one for users and for practice."""

"""A user's project, with the settings of the README as they are written there."""

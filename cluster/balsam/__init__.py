"""Run the course's commands as jobs of Balsam."""

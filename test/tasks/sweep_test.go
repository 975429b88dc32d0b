package tasks

func sweeper() int { return 0 }

const asSweeper = "TASKS_SWEEPER"

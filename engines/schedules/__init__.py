"""What is walked: phases of a frame, schedules over them, and predictions from some of them."""

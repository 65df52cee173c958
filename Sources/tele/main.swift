print("tele")

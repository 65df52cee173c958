import Glibc
import Loop

exit(Command.run(Arguments.all).rawValue)

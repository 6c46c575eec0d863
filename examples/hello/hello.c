// Says hello, and who says it: the proof that the image, its user and its arguments are as built.
#include <stdio.h>
#include <unistd.h>

int main(int count, char **arguments) {
    printf("hello, %s, from user %d\n", count > 1 ? arguments[1] : "world", (int)getuid());
    return 0;
}

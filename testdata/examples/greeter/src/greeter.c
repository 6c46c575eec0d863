// Greets whoever connects to port 8080. The greeting's first word is the first line of the file that
// GREETER_CONFIG names.
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const int PORT = 8080;

static void greeting(char *word, int size) {
    const char *path = getenv("GREETER_CONFIG");
    FILE *file = path ? fopen(path, "r") : NULL;
    snprintf(word, size, "hello");
    if (file == NULL) return;
    char line[64];
    if (fgets(line, sizeof line, file) != NULL && line[0] != '\n')
        snprintf(word, size, "%.*s", (int)strcspn(line, "\n"), line);
    fclose(file);
}

static struct sockaddr_in address(void) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return here;
}

static int check(void) {
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in there = address();
    if (connection < 0 || connect(connection, (struct sockaddr *)&there, sizeof there) != 0) {
        perror("greeter");
        return 1;
    }
    return 0;
}

// The first process of a container ignores signals that it does not handle.
static void leave(int signal) {
    (void)signal;
    _exit(0);
}

static int serve(void) {
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in here = address();
    if (listener < 0 || bind(listener, (struct sockaddr *)&here, sizeof here) != 0 ||
        listen(listener, 8) != 0) {
        perror("greeter");
        return 1;
    }
    char word[64];
    greeting(word, sizeof word);
    for (;;) {
        int guest = accept(listener, NULL, NULL);
        if (guest < 0) continue;
        dprintf(guest, "%s, guest\n", word);
        close(guest);
    }
}

int main(int count, char **arguments) {
    char word[64];
    if (count == 2 && strcmp(arguments[1], "--version") == 0) return puts("greeter " VERSION) < 0;
    if (count == 2 && strcmp(arguments[1], "--check") == 0) return check();
    if (count == 3 && strcmp(arguments[1], "--say") == 0) {
        greeting(word, sizeof word);
        return printf("%s, %s\n", word, arguments[2]) < 0;
    }
    if (count == 1) return serve();
    fprintf(stderr, "usage: greeter [--version | --check | --say NAME]\n");
    return 2;
}

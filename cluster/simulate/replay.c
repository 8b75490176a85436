/* Replay a training step on simulated ranks: computing, then the all-reduces of the buckets into which Horovod fuses the
 * gradients. `smpicc -O2 replay.c -o replay`, and then under smpirun
 *
 *     replay SUM COMPUTE BYTES...
 *
 * SUM: seconds that a rank needs to add one byte of gradients to another one. SMPI counts no time for sums by itself.
 * COMPUTE: seconds of computing before the first all-reduce. If it is negative, each all-reduce is timed by itself: it
 * begins when every rank has ended the one before.
 * BYTES: of each bucket, a multiple of 4, in the order in which they are reduced.
 *
 * Rank 0 prints the seconds from the moment at which all ranks begin to compute to the moment at which the last rank has
 * the sum: one line for each bucket, with its bytes, the seconds of this all-reduce, and the seconds since the beginning.
 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double seconds_per_byte;

/* Take the time of a sum. The numbers themselves are never looked at, because all ranks share one buffer. */
static void add(void *from, void *to, int *count, MPI_Datatype *type)
{
    (void)from, (void)to, (void)type;
    smpi_execute(*count * sizeof(float) * seconds_per_byte);
}

/* Let all ranks begin at one moment and return it. This needs no message, because the simulated clock is the same
 * everywhere, and no all-reduce takes as long as the pause. */
static double meet(void)
{
    const double step = 1000.0;
    double pause = step - fmod(MPI_Wtime(), step);
    struct timespec left = {(time_t)pause, (long)((pause - (time_t)pause) * 1e9)};
    nanosleep(&left, NULL);
    return MPI_Wtime();
}

int main(int argc, char **argv)
{
    int rank;
    MPI_Op sum;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (argc < 4)
        MPI_Abort(MPI_COMM_WORLD, 2);
    seconds_per_byte = atof(argv[1]);
    MPI_Op_create(add, 1, &sum);

    double compute = atof(argv[2]), begin = meet();
    if (compute > 0)
        smpi_execute(compute);
    for (int bucket = 3; bucket < argc; bucket++) {
        size_t bytes = strtoul(argv[bucket], NULL, 10);
        void *from = SMPI_SHARED_MALLOC(bytes), *to = SMPI_SHARED_MALLOC(bytes);
        if (compute < 0 && bucket > 3)
            begin = meet();
        double times[2] = {MPI_Wtime()}, latest[2];
        MPI_Allreduce(from, to, (int)(bytes / sizeof(float)), MPI_FLOAT, sum, MPI_COMM_WORLD);
        times[1] = MPI_Wtime();
        MPI_Reduce(times, latest, 2, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
        if (rank == 0)
            printf("%zu %.9f %.9f\n", bytes, latest[1] - latest[0], latest[1] - begin);
        SMPI_SHARED_FREE(from);
        SMPI_SHARED_FREE(to);
    }
    MPI_Op_free(&sum);
    MPI_Finalize();
    return 0;
}

/*
 * Asks LymphInfer which nuclei of the open image to name, and brings them as annotations of class Suggested,
 * those that would teach most first. Give each a class such as CD45 or Other, then run teach_bundle.groovy.
 *
 * Change: `lymphinfer` below, the full path of the program; `number`, how many; `resultsFolder`, where the
 * results of `lymphinfer predict` are not in PROJECT/lymphinfer (without a project: beside the slide).
 * Runs in: the script editor (Run, and Run for project), the menu of install_menu.groovy, and
 *   QuPath script -s -p PROJECT.qpproj suggest_nuclei.groovy
 * For QuPath 0.5 to 0.7. See README.md.
 */
import com.google.gson.Gson
import qupath.fx.dialogs.Dialogs
import qupath.lib.common.GeneralTools
import qupath.lib.io.PathIO
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The command, such as '/home/me/lymphinfer/bin/lymphinfer' or 'C:\\lymphinfer\\Scripts\\lymphinfer.exe'.
String lymphinfer = 'lymphinfer'

// Nuclei to review in this image.
int number = 100

// The marker that they are for. null: the first, CD45
String marker = null

// The --out of `lymphinfer predict`, such as '/data/results'. null: PROJECT/lymphinfer, or a folder
// lymphinfer beside the open image
String resultsFolder = null

// ---- Work ----------------------------------------------------------------------------------

def imageData = getCurrentImageData()
if (imageData == null) {
    refuse('Open an image first.')
    return
}
def server = imageData.getServer()
def slide = server.getURIs().collect { GeneralTools.toPath(it) }.find { it != null }?.toFile()
if (slide == null) {
    refuse('The open image is no file of this computer, so it has no result here.')
    return
}
// PROJECT_BASE_DIR is a text that only an open project can resolve.
def base = getProject() == null ? slide.getParentFile() : Projects.getBaseDirectory(getProject())
def folder = resultsFolder == null ? new File(base, 'lymphinfer') : new File(resultsFolder)
def found = findResults(folder, slide.getName()).findAll { isOf(it[1], server) }
if (found.size() != 1) {
    refuse("${found ? 'Several results' : 'No result'} of ${slide.getName()} in ${folder}: run run_lymphinfer.groovy first, or set " +
            'resultsFolder at the top of this script.')
    return
}
def result = found[0][0]
def review = new File(result, 'review.geojson').getPath()
def command = [lymphinfer, 'suggest', result.getPath(), '--out', review, '--number', number]
if (marker != null)
    command += ['--marker', marker]
println command.join(' ')

def (code, lines, log) = runCommand(command.collect { it.toString() })
if (code == null) {
    refuse("Cannot start ${lymphinfer} (${log.join(' ')}). Set the full path of the program at the top of this script.")
    return
}
if (code != 0 || lines.isEmpty()) {
    refuse("lymphinfer ended with code ${code}; nothing was suggested. Its last words:\n\n${log.takeRight(12).join('\n')}")
    return
}
// Those that are here already may have a class by now: they stay.
def here = getAnnotationObjects().collect { it.getID() }
def fresh = PathIO.readObjects(new File(lines[-1].trim())).findAll { !(it.getID() in here) }
imageData.getHierarchy().addObjects(fresh)
println "${fresh.size()} nuclei to review: select them in the list of annotations and give each a class."

/** The results of a slide in a folder, as [its folder, its summary]. */
List findResults(File folder, String name) {
    def found = []
    if (!folder.isDirectory())
        return found
    folder.eachFileRecurse { file ->
        if (file.name != 'summary.json')
            return
        try {
            def summary = new Gson().fromJson(file.getText('UTF-8'), Map)
            if (summary.slide.name == name)
                found << [file.getParentFile(), summary]
        } catch (Exception e) {
            println "Passed over ${file}: ${e.message}"
        }
    }
    return found
}

/** Say why nothing was done: in a window, or, where there is none, as the error that ends the script. */
void refuse(CharSequence words) {
    if (getQuPath() == null)
        throw new RuntimeException(words.toString())
    println words
    Dialogs.showErrorMessage('LymphInfer', words.toString())
}

/** Run a command and show its log as it comes: exit code, standard output, log; no code if it cannot start. */
List runCommand(List<String> command) {
    def lines = Collections.synchronizedList([])
    def log = Collections.synchronizedList([])
    def builder = new ProcessBuilder(command)
    // Python on Windows writes other letters than UTF-8 unless it is told to.
    builder.environment().put('PYTHONUTF8', '1')
    def process
    try {
        process = builder.start()
    } catch (IOException e) {
        return [null, lines, [e.message]]
    }
    process.getOutputStream().close()
    def readers = [
        Thread.start { process.getInputStream().eachLine('UTF-8') { if (!it.isBlank()) lines << it } },
        Thread.start { process.getErrorStream().eachLine('UTF-8') { log << it; println it } }
    ]
    try {
        int code = process.waitFor()
        readers.each { it.join() }
        return [code, lines, log]
    } finally {
        // A script that is killed takes LymphInfer with it.
        process.destroy()
    }
}

/** Whether a result is of the image that QuPath shows; of a slide with bounds QuPath shows a part. */
boolean isOf(summary, server) {
    def size = summary.slide.dimensions.collect { it as int }
    def corner = summary.slide.bounds_offset.collect { it as int }
    def shown = [server.getWidth(), server.getHeight()]
    return shown == size || (corner != [0, 0] && (0..1).every { corner[it] + shown[it] <= size[it] })
}

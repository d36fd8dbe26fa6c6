/*
 * Shows what LymphInfer took for tissue and what it found out of focus, as locked annotations.
 *
 * Change: `lymphinfer` below, the full path of the program; `resultsFolder`, where the results of
 * `lymphinfer predict` are not in PROJECT/lymphinfer (without a project: beside the slide).
 * Runs in: the script editor (Run, and Run for project), the menu of install_menu.groovy, and
 *   QuPath script -s -p PROJECT.qpproj import_tissue.groovy
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

// The --out of `lymphinfer predict`, such as '/data/results'. null: PROJECT/lymphinfer, or a folder
// lymphinfer beside the open image
String resultsFolder = null

// Take away the tissue of an earlier import. null: ask; without a window it stays.
Boolean replace = null

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
def hierarchy = imageData.getHierarchy()
def old = hierarchy.getAnnotationObjects().findAll { it.isLocked() && it.getName() in ['Tissue', 'Out of focus'] }
if (old && replace == null && getQuPath() != null)
    replace = Dialogs.showYesNoDialog('LymphInfer', 'The tissue of an earlier import is here. Replace it?')
if (old && !replace) {
    println 'The tissue of an earlier import stays. replace = true takes it away.'
    return
}

def (code, lines, log) = runCommand([lymphinfer, 'export', result.getPath(), '--to', 'tissue-geojson'])
if (code == null) {
    refuse("Cannot start ${lymphinfer} (${log.join(' ')}). Set the full path of the program at the top of this script.")
    return
}
if (code != 0 || lines.isEmpty()) {
    refuse("lymphinfer ended with code ${code}; nothing was imported. Its last words:\n\n${log.takeRight(12).join('\n')}")
    return
}
def areas = PathIO.readObjects(new File(lines[-1].trim()))
areas.each { it.setLocked(true) }
hierarchy.removeObjects(old, true)
hierarchy.addObjects(areas)
areas.each { println "${it.getName()}: ${it.getMeasurementList().get('Area mm^2')} mm²" }

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
